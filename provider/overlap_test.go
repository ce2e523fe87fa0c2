package provider_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// second makes a further daemon for the same nodes, which sees the API through
// its own eyes.
func (w *world) second(pods provider.PodAPI) *provider.Bridge {
	return newBridge(w.system, w.stager, pods, providertest.Objects{}, w.clock, "node-main")
}

func newBridge(system backends.Backend, stager provider.Stager, pods provider.PodAPI, objects provider.Objects, at clock.PassiveClock, node string, change ...func(*provider.Options)) *provider.Bridge {
	options := provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "test"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}}, Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost},
				Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: owner, Launcher: "slurm", Backend: system, Stager: stager, Pods: pods, Objects: objects,
		Gate: providertest.Sound(), Clock: at, Log: logr.Discard(),
	}
	for _, f := range change {
		f(&options)
	}
	b := provider.NewBridge(options)
	b.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: "main", MaxPodsPending: 1000}})
	return b
}

// runs notes that the pods of a gang were started by a job, but those that were told
// to end before.
func (w *world) runs(g *providertest.StagedGang, id backends.JobID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rank, p := range g.Output.Pods {
		if _, told := g.Stops[rank]; told {
			continue
		}
		uid := string(p.Pod.UID)
		if w.ran[uid] == nil {
			w.ran[uid] = map[backends.JobID]bool{}
		}
		w.ran[uid][id] = true
	}
}

// twice lists what must never happen: a gang or a pod that two jobs ran.
func (w *world) twice() []string {
	out := w.system.Violations()
	w.mu.Lock()
	defer w.mu.Unlock()
	for uid, jobs := range w.ran {
		if len(jobs) > 1 {
			out = append(out, fmt.Sprintf("pod %s ran in jobs %v", uid, slices.Sorted(maps.Keys(jobs))))
		}
	}
	return out
}

// R13: two daemons serve one node for 30 s under load; then one of them is left. Half
// of the gangs are bound by another scheduler, while the daemons look, and in half of
// the trials the daemons see all late. Nothing runs twice, nothing is lost, nothing stays behind. ISTHMUS_TRIALS sets
// how often. What both did to each pod is as if they had done it one after the
// other (linearisable).
func TestTwoDaemonsForOneNode(t *testing.T) {
	trials := 40
	if n, err := strconv.Atoi(os.Getenv("ISTHMUS_TRIALS")); err == nil && n > 0 {
		trials = n
	}
	double, second, lost, acts := 0, 0, 0, 0
	for trial := range trials {
		rng := rand.New(rand.NewPCG(uint64(trial), 13)) //nolint:gosec // a trial that can be repeated
		w := newWorld(t, time.Duration(10+rng.IntN(40))*time.Second, providertest.Sound())
		acted := newTape()
		groups, views := newGroups(), []*belated{belatedly(w.api, uint64(2*trial)), belatedly(w.api, uint64(2*trial+1))} //nolint:gosec // small
		if trial%2 == 0 {
			views[0].catchUp()
			views[1].catchUp()
		}
		other := w.taped(acted, 1, views[1], groups)
		w.bridge = w.taped(acted, 0, views[0], groups)
		for i := range 6 { // ticks of 5 s
			name, size := fmt.Sprintf("g%d", i), 1+rng.IntN(4)
			var both sync.WaitGroup
			if i%2 == 0 {
				w.gang(name, size)
			} else {
				groups.set(name, int32(size)) //nolint:gosec // a few
				both.Go(func() { w.bound(w.pods(name, size), name, "node-main") })
			}
			for _, b := range []*provider.Bridge{w.bridge, other} {
				fresh := rng.IntN(3) > 0
				both.Go(func() {
					for i := range 4 {
						b.Pass(t.Context(), fresh && i%2 == 0)
						if i%2 == 1 {
							b.Wait()
						}
					}
					b.Wait()
				})
			}
			both.Wait()
			w.system.Advance(tickTime)
			w.clock.SetTime(w.system.Now())
		}
		views[0].catchUp()
		for range 60 { // the other is gone
			w.tick()
			if w.settled() && !w.liveJobs() {
				break
			}
		}
		if got := acted.check(); got != porcupine.Ok {
			t.Errorf("trial %d: the history of %d acts is %s", trial, len(acted.ops), got)
		}
		acts += len(acted.ops)
		double += len(w.twice())
		starts := map[backends.Key]int{}
		for _, e := range w.system.History() {
			if e.What == "start" {
				starts[e.Key]++
			}
		}
		for key, n := range starts {
			if n > 1 {
				double++
				t.Errorf("trial %d: gang %s ran %d times", trial, key, n)
			}
		}
		for _, p := range w.api.List() {
			if p.Status.Phase != corev1.PodSucceeded {
				lost++
				t.Errorf("trial %d: pod %s is %s", trial, p.Name, p.Status.Phase)
			}
		}
		submits := map[backends.Key]int{}
		for _, j := range w.system.Jobs() {
			if submits[j.Key]++; submits[j.Key] == 2 {
				second++
			}
		}
		if w.liveJobs() {
			t.Errorf("trial %d: jobs are left: %+v", trial, w.system.Jobs())
		}
	}
	if acts < trials*20 {
		t.Errorf("%d acts in %d trials: the histories say nothing", acts, trials)
	}
	t.Logf("R13: %d trials, %d double runs, %d lost pods; %d times both submitted, and one job stayed held; %d acts on pods, linearisable", trials, double, lost, second, acts)
}

// distorted is a view of the API server that is not its state.
type distorted struct {
	provider.PodAPI
	list func([]*corev1.Pod) []*corev1.Pod
}

// List implements provider.PodAPI.
func (d *distorted) List() []*corev1.Pod { return d.list(d.PodAPI.List()) }

// ListLive implements provider.PodAPI.
func (d *distorted) ListLive(ctx context.Context) ([]*corev1.Pod, error) {
	pods, err := d.PodAPI.ListLive(ctx)
	return d.list(pods), err
}

// R4: while the API server shows nothing, a part, an old state or a copy of
// etcd that was rolled back, no job is cancelled, however long it takes; the
// brake says why.
func TestBrakeOnAWrongView(t *testing.T) {
	const running = 24
	var old []*corev1.Pod // as they were before the first was bound to a job
	for name, list := range map[string]func([]*corev1.Pod) []*corev1.Pod{
		"empty": func([]*corev1.Pod) []*corev1.Pod { return nil },
		"filtered": func(pods []*corev1.Pod) []*corev1.Pod {
			var out []*corev1.Pod
			for _, p := range pods {
				if p.Name == "g0-0" {
					out = append(out, p)
				}
			}
			return out
		},
		"rolled back": func([]*corev1.Pod) []*corev1.Pod { return old[:1] },
		"stale":       func([]*corev1.Pod) []*corev1.Pod { return old },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 24*time.Hour, providertest.Sound())
			for i := range running {
				w.gang(fmt.Sprintf("g%d", i), 1)
			}
			old = nil
			for _, p := range w.api.List() {
				old = append(old, p.DeepCopy())
			}
			for range 4 {
				w.tick()
			}
			if n := len(w.api.List()); n != running {
				t.Fatalf("%d pods", n)
			}
			for _, p := range w.api.List() {
				if p.Annotations[wellknown.BatchJobID] == "" || p.Status.Phase != corev1.PodRunning {
					t.Fatalf("pod %s does not run: %s", p.Name, p.Status.Phase)
				}
			}
			// A daemon that starts into the wrong view, and stays in it for an hour.
			w.bridge = w.second(&distorted{PodAPI: w.api, list: list})
			braked := false
			for range 720 {
				w.bridge.Pass(t.Context(), true)
				w.bridge.Wait()
				w.system.Advance(tickTime)
				w.clock.SetTime(w.system.Now())
				braked = braked || w.bridge.Brake() != ""
			}
			cancels := 0
			for _, j := range w.system.Jobs() {
				if j.State != backends.StateRunning && !j.Held {
					cancels++
					t.Errorf("job %s is %s", j.ID, j.State)
				}
			}
			if len(w.system.Violations()) > 0 {
				t.Errorf("double runs: %v", w.system.Violations())
			}
			if !braked && name != "stale" { // an old version of a pod still owns its job
				t.Error("the brake did not say anything")
			}
			t.Logf("R4 %s: an hour, %d of %d jobs cancelled; brake: %s", name, cancels, running, w.bridge.Brake())
		})
	}
}
