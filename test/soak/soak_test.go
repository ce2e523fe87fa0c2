// Package soak has no code of its own: its test sends very many pods through the
// provider in compressed time and looks for what grows.
package soak_test

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

const (
	node = "node-main"
	tick = 5 * time.Second
	// wave is how many pods live at a time.
	wave = 200
	// growth is how much the heap may grow from a tenth of the run to its end.
	growth = 5 // percent
	// slope is the most that the resident memory may rise by in an hour of the
	// pods' time, in bytes, and samples how often it is looked at from a tenth on.
	slope   = 1 << 20
	samples = 100
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// life is the provider with what is around it.
type life struct {
	t      *testing.T
	api    *providertest.API
	stager *providertest.Stager
	system *fake.System
	clock  *clocktesting.FakePassiveClock
	bridge *provider.Bridge
}

func newLife(t *testing.T) *life {
	l := &life{t: t, api: providertest.NewAPI(), stager: providertest.NewStager()}
	cfg := fake.Uniform(10, 64, 512<<10, "a100", 8)
	cfg.MinJobAge = 10 * time.Second
	cfg.Program = func(backends.JobSpec) fake.Behaviour {
		return fake.Behaviour{
			Duration: 7 * time.Second,
			OnEnd: func(r fake.Run, _ backends.State) {
				l.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
					for rank := range g.Output.Pods {
						end := metav1.NewTime(r.Now)
						g.Pods[rank] = manifest.Status{
							Version: manifest.Version, Seq: 1, UID: string(g.Output.Pods[rank].Pod.UID), Rank: rank, Host: "h001", HostIP: "10.0.0.1",
							Phase: manifest.PhaseSucceeded, StartedAt: end, FinishedAt: end,
							Containers: []manifest.Container{{Name: "main", State: corev1.ContainerState{
								Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: end, FinishedAt: end},
							}}},
						}
					}
					g.End = &manifest.End{}
				})
			},
		}
	}
	l.system = fake.New(cfg)
	l.clock = clocktesting.NewFakePassiveClock(l.system.Now())
	l.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "soak"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: "soak", Launcher: "slurm", Backend: l.system, Stager: l.stager, Pods: l.api, Objects: providertest.Objects{},
		Clock: l.clock, Log: logr.Discard(),
	})
	l.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: "main", MaxPodsPending: 10_000}})
	return l
}

func (l *life) tick() {
	l.bridge.Pass(l.t.Context(), true)
	l.bridge.Wait()
	l.system.Advance(tick)
	l.clock.SetTime(l.system.Now())
}

// wave sends pods from their binding to the last trace of them.
func (l *life) wave(first, n int) {
	l.t.Helper()
	var uids []types.UID
	for i := first; i < first+n; i++ {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i))},
			Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
				Name: "main", Image: "none", Command: []string{"/bin/true"},
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
			}}},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		l.api.Create(p)
		uids = append(uids, p.UID)
	}
	for range 12 {
		l.tick()
	}
	for _, uid := range uids {
		if p := l.api.Get(uid); p.Status.Phase != corev1.PodSucceeded {
			l.t.Fatalf("pod %s is %s", p.Name, p.Status.Phase)
		}
		l.api.Delete(uid, metav1.NewTime(l.clock.Now()))
	}
	for range 12 {
		l.tick()
		if l.stager.Len() == 0 && len(l.system.Jobs()) == 0 && len(l.api.List()) == 0 {
			break
		}
	}
	if jobs := len(l.system.Jobs()); l.stager.Len() > 0 || jobs > 0 || len(l.api.List()) > 0 {
		l.t.Fatalf("left behind: %d directories, %d jobs, %d pods", l.stager.Len(), jobs, len(l.api.List()))
	}
	if v := l.system.Violations(); len(v) > 0 {
		l.t.Fatalf("double runs: %v", v)
	}
	// The world around the provider remembers for tests that look back.
	l.system.ForgetHistory()
	l.api.ForgetGone()
}

// heap is what is reachable, in bytes.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // pools are emptied in two collections
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // far below the limit
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// resident is the memory of the process, in bytes, after the runtime has given
// back what it does not need.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var total, rss int64
	if _, err := fmt.Sscan(string(raw), &total, &rss); err != nil {
		t.Fatalf("read /proc/self/statm: %v", err)
	}
	return rss * int64(os.Getpagesize())
}

// line is a value over time, with time in hours.
type line struct {
	from time.Time
	x, y []float64
}

func (l *line) add(at time.Time, v float64) {
	if len(l.x) == 0 {
		l.from = at
	}
	l.x, l.y = append(l.x, at.Sub(l.from).Hours()), append(l.y, v)
}

// fit gives the ends and the least-squares slope an hour.
func (l *line) fit() (first, last, hours, slope float64) {
	n := len(l.x)
	if n < 2 {
		return 0, 0, 0, 0
	}
	var mx, my, xy, xx float64
	for i := range n {
		mx, my = mx+l.x[i]/float64(n), my+l.y[i]/float64(n)
	}
	for i := range n {
		xy, xx = xy+(l.x[i]-mx)*(l.y[i]-my), xx+(l.x[i]-mx)*(l.x[i]-mx)
	}
	return l.y[0], l.y[n-1], l.x[n-1], xy / max(xx, 1e-12)
}

// TestSoak: pods in waves; heap, goroutines and descriptors at the end are what
// they were after a tenth, and no directory or job is left (R12). ISTHMUS_SOAK
// sets the number of pods; make test-long sends 100,000. The slope of the resident
// memory, by the time that the pods live in, is held where that is an hour and more,
// and told where it is less.
func TestSoak(t *testing.T) {
	pods := 2000
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_SOAK")); err == nil && n >= 10*wave {
		pods = n
	}
	l := newLife(t)
	var heapThen int64
	var memory line
	var goroutinesThen, descriptorsThen int
	step, next := max(pods*9/10/samples, wave), 0
	for done := 0; done < pods; done += wave {
		l.wave(done, wave)
		if heapThen == 0 && done+wave >= pods/10 {
			heapThen, goroutinesThen, descriptorsThen = heap(), runtime.NumGoroutine(), descriptors(t)
			next = done
		}
		if heapThen > 0 && done >= next {
			memory.add(l.clock.Now(), float64(resident(t)))
			next += step
		}
	}
	heapNow, goroutines, fds := heap(), runtime.NumGoroutine(), descriptors(t)
	t.Logf("%d pods: heap %d KiB after a tenth, %d KiB at the end; %d and %d goroutines, %d and %d descriptors",
		pods, heapThen>>10, heapNow>>10, goroutinesThen, goroutines, descriptorsThen, fds)
	first, last, hours, rise := memory.fit()
	t.Logf("R12: resident %.1f MiB after a tenth, %.1f MiB at the end, %.1f hours of the pods' time later: %.2f MiB an hour over %d samples",
		first/(1<<20), last/(1<<20), hours, rise/(1<<20), len(memory.y))
	if hours >= 1 && rise > slope {
		t.Errorf("the resident memory rises by %.2f MiB an hour, at most %d are expected", rise/(1<<20), slope>>20)
	}
	// A small heap varies by what the runtime itself keeps.
	if limit := max(heapThen*(100+growth)/100, heapThen+256<<10); heapNow > limit {
		t.Errorf("the heap grew from %d to %d bytes, at most %d are expected", heapThen, heapNow, limit)
	}
	if goroutines > goroutinesThen || fds > descriptorsThen {
		t.Errorf("goroutines %d -> %d, descriptors %d -> %d", goroutinesThen, goroutines, descriptorsThen, fds)
	}
	runtime.KeepAlive(l)
}
