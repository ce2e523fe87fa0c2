// Command lists measures what a tick of the virtual kubelet costs with 2000 live
// pods: list calls to the batch system, and processor time. The batch system is
// the fake one, so that only our own work counts. It also counts the effects that a
// gang of 512 costs. It fails when the counts are not what they are to be: one list
// call a tick; for a gang one submit, one observe a tick, one stop order, one cancel.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

func main() {
	pods := flag.Int("pods", 2000, "live pods, each a job of its own")
	ticks := flag.Int("ticks", 20, "ticks to measure")
	members := flag.Int("members", 512, "members of the gang whose effects are counted")
	flag.Parse()
	ctx := context.Background()
	err := live(ctx, *pods, *ticks)
	if err == nil {
		err = gang(ctx, *members)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lists:", err)
		os.Exit(1)
	}
}

const node = "perf-main"

// world is a bridge on a fake batch system and an API server in memory.
type world struct {
	api    *providertest.API
	stager *providertest.Stager
	system *fake.System
	clock  *clocktesting.FakePassiveClock
	bridge *provider.Bridge
}

func newWorld(hosts int) *world {
	w := &world{api: providertest.NewAPI(), stager: providertest.NewStager(), system: fake.New(fake.Uniform(hosts, 64, 512<<10, "a100", 8))}
	w.clock = clocktesting.NewFakePassiveClock(w.system.Now())
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "perf"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}},
				Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}, Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: "perf", Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api,
		Objects: providertest.Objects{}, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: node, Partition: "main", MaxPodsPending: 10_000}})
	return w
}

func pod(i int, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: fmt.Sprintf("p%d", i), UID: types.UID(fmt.Sprintf("uid-%d", i)), Annotations: annotations,
		},
		Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "main", Image: "none", Command: []string{"/bin/true"},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
}

// ticks lets so many ticks of 5 s pass.
func (w *world) ticks(ctx context.Context, n int) {
	for range n {
		w.bridge.Pass(ctx, true)
		w.bridge.Wait()
		w.system.Advance(5 * time.Second)
		w.clock.SetTime(w.system.Now())
	}
}

func (w *world) running() int {
	n := 0
	for _, j := range w.system.Jobs() {
		if !j.State.Terminal() && !j.Held {
			n++
		}
	}
	return n
}

// live measures what many pods that only run cost.
func live(ctx context.Context, pods, ticks int) error {
	w := newWorld(pods/8 + 1)
	for i := range pods {
		w.api.Create(pod(i, nil))
	}
	w.ticks(ctx, 4) // submitted and running
	if n := w.running(); n != pods {
		return fmt.Errorf("%d of %d jobs run", n, pods)
	}
	before, cpu := w.system.Calls()[fake.OpObserve], processorTime()
	w.ticks(ctx, ticks)
	calls := w.system.Calls()[fake.OpObserve] - before
	spent := (processorTime() - cpu) / time.Duration(ticks)
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	runtime.KeepAlive(w)
	fmt.Printf("lists: %d live pods: %.2f list calls a tick; %.1f ms of processor time a tick, %.3f of a core at the default tick of 5 s; "+
		"heap %d MiB, from the system %d MiB (the fake batch system and the API server in memory are part of both)\n",
		pods, float64(calls)/float64(ticks), float64(spent.Microseconds())/1000, spent.Seconds()/5, m.HeapAlloc>>20, m.Sys>>20)
	if calls > ticks {
		return fmt.Errorf("%d list calls in %d ticks, want one a tick at most", calls, ticks)
	}
	return nil
}

// gang counts the effects that one large gang costs from binding to its end. Its
// members do not end when they are told to, so that it is cancelled as well.
func gang(ctx context.Context, members int) error {
	w := newWorld(members/8 + 1)
	for i := range members {
		w.api.Create(pod(i, map[string]string{
			wellknown.GangAttempt: "a", wellknown.GangSize: strconv.Itoa(members), wellknown.GangRank: strconv.Itoa(i),
		}))
	}
	w.ticks(ctx, 1)
	if n := w.running(); n != 1 {
		return fmt.Errorf("%d jobs run after the first tick, want one", n)
	}
	cpu, observed := processorTime(), w.system.Calls()[fake.OpObserve]
	w.ticks(ctx, 1)
	observed, cpu = w.system.Calls()[fake.OpObserve]-observed, processorTime()-cpu
	for i := range members {
		w.api.Delete(types.UID(fmt.Sprintf("uid-%d", i)), metav1.NewTime(w.system.Now()))
	}
	w.ticks(ctx, 3)
	stops, told := 0, 0
	for _, j := range w.system.Jobs() {
		w.stager.Change(j.Key, func(g *providertest.StagedGang) { stops, told = g.Orders, len(g.Stops) })
	}
	w.ticks(ctx, 12)
	c := w.system.Calls()
	fmt.Printf("lists: a gang of %d: %d submit, %d release, %d observe a tick (%.1f ms of processor time), %d stop order for %d members, %d cancel\n",
		members, c[fake.OpSubmit], c[fake.OpRelease], observed, float64(cpu.Microseconds())/1000, stops, told, c[fake.OpCancel])
	if c[fake.OpSubmit] != 1 || observed != 1 {
		return errors.New("a gang, whatever its size, is one submit and one observe a tick")
	}
	if stops != 1 || told != members || c[fake.OpCancel] != 1 {
		return errors.New("the end of a gang that does not end by itself is one stop order and one cancel")
	}
	return nil
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
