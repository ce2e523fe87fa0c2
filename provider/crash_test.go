package provider_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

const owner = "test-cluster"

// tickTime is the virtual time of one tick.
const tickTime = 5 * time.Second

// world is everything that survives a crash of the daemon.
type world struct {
	t      *testing.T
	api    *providertest.API
	stager *providertest.Stager
	system *fake.System
	clock  *clocktesting.FakePassiveClock
	gate   *providertest.Gate
	bridge *provider.Bridge
	change func(*hpcv1alpha1.BatchCluster) // of what boot serves; nil is nothing
	// namespace of gangs to come, "ns" when empty.
	namespace string
	objects   provider.Objects // of what boot serves; nil has nothing
	through   effect.Gate      // instead of gate, unless nil

	mu  sync.Mutex
	ran map[string]map[backends.JobID]bool // jobs that started, by UID of a pod
}

// newWorld has four hosts with 16 CPUs and 8 GPUs, and the pod runner's files
// follow what the batch system does.
func newWorld(t *testing.T, duration time.Duration, gate *providertest.Gate) *world {
	var w *world
	w = newWorldOf(t, gate, func(spec backends.JobSpec) fake.Behaviour {
		lasts := duration
		w.stager.Change(spec.Key, func(g *providertest.StagedGang) {
			if gangOf(g) == "gone" { // it is deleted, and does not end before that
				lasts = time.Hour
			}
		})
		return fake.Behaviour{
			Duration: lasts,
			OnStart: func(r fake.Run) {
				w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
					w.runs(g, r.Job)
					for rank := range g.Output.Pods {
						g.Pods[rank] = status(g, rank, r.Restart, manifest.PhaseRunning, 0)
					}
				})
			},
			OnEnd: func(r fake.Run, s backends.State) {
				w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
					phase, code := manifest.PhaseSucceeded, int32(0)
					if s != backends.StateCompleted {
						phase, code = manifest.PhaseFailed, 143
					}
					for rank := range g.Output.Pods {
						g.Pods[rank] = status(g, rank, r.Restart, phase, code)
					}
					g.End = &manifest.End{Restart: r.Restart, ExitCode: int(code)}
				})
			},
		}
	})
	return w
}

// newWorldOf is newWorld with the programs of jobs given.
func newWorldOf(t *testing.T, gate *providertest.Gate, program func(backends.JobSpec) fake.Behaviour) *world {
	cfg := fake.Uniform(4, 16, 64<<10, "a100", 8)
	cfg.Program = program
	return newWorldIn(t, gate, cfg)
}

// newWorldIn is newWorld with the batch system given.
func newWorldIn(t *testing.T, gate *providertest.Gate, cfg fake.Config) *world {
	w := &world{t: t, api: providertest.NewAPI(), stager: providertest.NewStager(), gate: gate, objects: providertest.Objects{}, ran: map[string]map[backends.JobID]bool{}}
	w.system = fake.New(cfg)
	w.clock = clocktesting.NewFakePassiveClock(w.system.Now())
	w.boot()
	return w
}

// cluster is what boot serves.
func (w *world) cluster() *hpcv1alpha1.BatchCluster {
	cluster := &hpcv1alpha1.BatchCluster{
		ObjectMeta: metav1.ObjectMeta{Name: "test"},
		Spec: hpcv1alpha1.BatchClusterSpec{
			Type:     "slurm",
			Accounts: []hpcv1alpha1.Account{{User: "alice"}},
			Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost},
			Staging:  hpcv1alpha1.Staging{Directory: "/staging"},
		},
	}
	if w.change != nil {
		w.change(cluster)
	}
	return cluster
}

// boot starts a daemon that remembers nothing.
func (w *world) boot() {
	var gate effect.Gate = w.gate
	if w.through != nil {
		gate = w.through
	}
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: w.cluster(),
		Owner:   owner, Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api, Objects: w.objects,
		Gate: gate, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{
		{Name: "node-main", Partition: "main", MaxPodsPending: 1000}, {Name: "node-other", Partition: "main", MaxPodsPending: 1000},
	})
}

// tick is one poll interval: a fresh pass, passes for its follow-ups, time.
func (w *world) tick() {
	for i := range 4 {
		w.bridge.Pass(w.t.Context(), i == 0 || i == 2)
		w.bridge.Wait()
		if w.gate.Revive() {
			w.boot()
		}
	}
	w.system.Advance(tickTime)
	w.clock.SetTime(w.system.Now())
	if v := w.twice(); len(v) > 0 {
		w.t.Fatalf("double run: %v", v)
	}
}

// gang binds size pods as one attempt.
func (w *world) gang(name string, size int) (uids []types.UID) {
	for _, p := range w.pods(name, size) {
		w.api.Create(p)
		uids = append(uids, p.UID)
	}
	return uids
}

// pods makes those of one attempt, and binds none.
func (w *world) pods(name string, size int) (pods []*corev1.Pod) {
	for rank := range size {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: cmp.Or(w.namespace, "ns"), Name: fmt.Sprintf("%s-%d", name, rank), UID: types.UID(fmt.Sprintf("uid-%s-%d", name, rank)),
				Annotations: map[string]string{
					wellknown.GangAttempt: "attempt-" + name, wellknown.GangSize: fmt.Sprint(size), wellknown.GangRank: fmt.Sprint(rank),
				},
			},
			Spec: corev1.PodSpec{
				NodeName: "node-main", RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64(10)),
				Containers: []corev1.Container{{
					Name: "main", Image: "none", Command: []string{"/bin/true"},
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"),
					}},
				}},
			},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		pods = append(pods, p)
	}
	return pods
}

func status(g *providertest.StagedGang, rank, restart int, phase manifest.Phase, code int32) manifest.Status {
	pod := g.Output.Pods[rank].Pod
	now := metav1.Unix(1_767_225_600, 0)
	st := manifest.Status{
		Version: manifest.Version, Restart: restart, Seq: 1, UID: string(pod.UID), Rank: rank,
		Host: "h001", HostIP: "10.0.0.1", Phase: phase, StartedAt: now,
	}
	c := manifest.Container{Name: "main", ContainerID: "host://" + string(pod.UID) + "/main/0", Ready: true, Started: true}
	if phase.Terminal() {
		st.FinishedAt, st.Seq = now, 2
		c.Ready, c.Started = false, false
		c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: code, Reason: "Completed", StartedAt: now, FinishedAt: now}
	} else {
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: now}
	}
	st.Containers = []manifest.Container{c}
	return st
}

// life runs one load from binding to an empty cluster and checks that nothing
// ran twice, was lost or was left behind.
func life(t *testing.T, seed uint64, gate *providertest.Gate) {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(t, time.Duration(10+rng.IntN(40))*time.Second, gate)
	kept := slices.Concat(w.gang("big", 2+rng.IntN(3)), w.gang("one", 1))
	dropped := w.gang("gone", 2)
	dropAt := rng.IntN(6)
	for i := range 120 {
		if i == dropAt {
			for _, uid := range dropped {
				w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
			}
		}
		if seed%2 == 0 {
			w.obey()
		}
		w.tick()
		if i > dropAt && w.settled() {
			break
		}
	}
	for _, uid := range kept {
		p := w.api.Get(uid)
		switch {
		case p == nil:
			t.Errorf("pod %s vanished", uid)
		case p.Status.Phase != corev1.PodSucceeded:
			t.Errorf("pod %s is %s (%s %s), the fault was transient", uid, p.Status.Phase, p.Status.Reason, p.Status.Message)
		case len(p.Finalizers) > 0:
			t.Errorf("pod %s keeps its finalizer", uid)
		}
	}
	for _, uid := range dropped {
		if w.api.Get(uid) != nil {
			t.Errorf("deleted pod %s is still there", uid)
		}
	}
	for _, uid := range kept {
		w.api.Delete(uid, metav1.NewTime(w.clock.Now()))
	}
	for range 40 { // held leftovers have a minute of grace
		w.tick()
		if w.stager.Len() == 0 && !w.liveJobs() {
			break
		}
	}
	if n := w.stager.Len(); n > 0 {
		t.Errorf("%d directories are left in the staging area", n)
	}
	if w.liveJobs() {
		t.Errorf("jobs are left: %+v", w.system.Jobs())
	}
	started := map[backends.Key]int{}
	for _, e := range w.system.History() {
		if e.What == "start" {
			started[e.Key]++
		}
	}
	for key, n := range started {
		if n > 1 {
			t.Errorf("gang %s ran %d times", key, n)
		}
	}
	if fault, first := gate.Unmet(); first {
		t.Errorf("the fault was never met: %s", fault)
	} else if fault != "" {
		t.Logf("this run needed fewer: %s", fault)
	}
}

// obey lets the runners of running jobs end the members they were told to stop.
// A job all of whose members have ended so ends by itself.
func (w *world) obey() {
	for _, j := range w.system.Jobs() {
		if j.State != backends.StateRunning {
			continue
		}
		live := 1
		w.stager.Change(j.Key, func(g *providertest.StagedGang) {
			for rank := range g.Stops {
				if st, ok := g.Pods[rank]; ok && st.Restart == j.Restarts && !st.Phase.Terminal() {
					g.Pods[rank] = status(g, rank, j.Restarts, manifest.PhaseFailed, 143)
				}
			}
			live = len(g.Output.Pods)
			for rank := range g.Output.Pods {
				if st := g.Pods[rank]; st.Restart == j.Restarts && st.Phase.Terminal() {
					live--
				}
			}
		})
		if live == 0 {
			w.system.Finish(j.ID, 1, 0)
		}
	}
}

func (w *world) settled() bool {
	for _, p := range w.api.List() {
		if len(p.Finalizers) > 0 || p.Status.Phase == corev1.PodPending || p.Status.Phase == corev1.PodRunning {
			return false
		}
	}
	return true
}

func (w *world) liveJobs() bool {
	return slices.ContainsFunc(w.system.Jobs(), func(j backends.Job) bool { return !j.State.Terminal() })
}

// effectsOfALife is golden: a new external effect cannot hide from the
// enumeration below.
var effectsOfALife = []string{
	"cancel", "collect", "forget", "observe", "patch-status", "record", "release", "stage", "stop", "submit", "sweep-remove", "write-intent",
}

// TestCrashEnumeration meets every external effect of the provider with every
// fault, early and late, on the fake batch system: no double run, nothing lost,
// nothing left behind (reliability figure R1).
func TestCrashEnumeration(t *testing.T) {
	seeds := uint64(5)
	if testing.Short() {
		seeds = 1
	}
	points, met := 0, map[string]bool{}
	t.Run("faults", func(t *testing.T) { // ends when its parallel lives have
		for seed := range seeds {
			points += faultsOf(t, seed, met)
		}
	})
	if seeds > 1 && !(met["cancel"] && met["stop"]) {
		t.Errorf("no gang was ended in both ways: %v", met)
	}
	if least := 48 * int(seeds); points < least { //nolint:gosec // at most 5
		t.Errorf("%d crash points, want %d at least", points, least)
	}
	if !t.Failed() {
		t.Logf("fake: %d crash points over %d loads: 0 double runs, 0 lost, 0 left behind", points, seeds)
	}
}

// faultsOf leads a life for each crash point of one load, counts them, and adds
// the effects to met.
func faultsOf(t *testing.T, seed uint64, met map[string]bool) (points int) {
	probe := providertest.Sound()
	life(t, seed, probe)
	if t.Failed() {
		t.Fatalf("seed %d fails without any fault", seed)
	}
	names := slices.Sorted(maps.Keys(probe.Counts()))
	for _, name := range names {
		met[name] = true
	}
	for _, want := range effectsOfALife {
		if want == "cancel" || want == "stop" {
			continue // a gang deleted before its job exists needs neither, one that does as it is told no cancel
		}
		if !slices.Contains(names, want) {
			t.Errorf("seed %d: effect %q never happened in %v", seed, want, names)
		}
	}
	for _, name := range names {
		if !slices.Contains(effectsOfALife, name) {
			t.Errorf("effect %q is not in the golden list", name)
		}
		for _, nth := range occurrences(probe.Count(name), seed) {
			for _, m := range providertest.Faults() {
				points++
				t.Run(strings.ReplaceAll(fmt.Sprintf("seed%d/%s-%d/%s", seed, name, nth, m), " ", "_"), func(t *testing.T) {
					t.Parallel()
					life(t, seed, providertest.Faulty(m, name, nth))
				})
			}
		}
	}
	return points
}

// occurrences picks the first, a middle and the last time an effect happens;
// for all seeds but one the first alone, which is where most goes wrong.
func occurrences(n int, seed uint64) []int {
	if seed > 0 {
		return []int{1}
	}
	out := []int{1, (n + 1) / 2, n}
	slices.Sort(out)
	return slices.Compact(out)
}
