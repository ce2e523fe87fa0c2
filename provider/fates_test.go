package provider_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// fate is something that happens to a job while the daemon looks on.
type fate struct {
	does func(*fake.Behaviour) // what its program does by itself
	held bool                  // an administrator holds it before it is released
	// fall happens once the job runs, or waits where it is held.
	fall func(*testing.T, *world, backends.Job)
	// silent: the runner is killed before it can write its end.
	silent bool
	want   seen
}

// seen is what a user sees of a pod's end.
type seen struct {
	phase     corev1.PodPhase
	reason    string
	code      int32
	restarts  int32
	disrupted string // reason of DisruptionTarget while it is True, "" without
}

func forever(b *fake.Behaviour) { b.Forever = true }

// twice lasts long enough to be queued again meanwhile.
func twice(b *fake.Behaviour) { b.Duration = 10 * time.Minute }

// killedFirst is a requeue as seen on its way: the member was killed and says so,
// while its job still seems to run.
func killedFirst(_ *testing.T, w *world, j backends.Job) {
	w.stager.Change(j.Key, func(g *providertest.StagedGang) {
		began := g.Pods[0].StartedAt
		st := status(g, 0, j.Restarts, manifest.PhaseFailed, 143)
		st.StartedAt, st.FinishedAt = began, metav1.NewTime(began.Add(15*time.Second))
		g.Pods[0] = st
	})
	w.tick()
	w.system.Requeue(j.ID)
}

func cancelByAdmin(t *testing.T, w *world, j backends.Job) {
	if err := w.system.Cancel(t.Context(), backends.JobRef{ID: j.ID, User: "alice"}); err != nil {
		t.Error(err)
	}
}

func failHost(requeue bool) func(*testing.T, *world, backends.Job) {
	return func(_ *testing.T, w *world, j backends.Job) { w.system.FailHost(j.Hosts[0], requeue) }
}

var fates = map[string]fate{
	"completes":  {want: seen{phase: corev1.PodSucceeded}},
	"fails":      {does: func(b *fake.Behaviour) { b.ExitCode = 3 }, want: seen{phase: corev1.PodFailed, code: 3}},
	"has no end": {does: forever, want: seen{phase: corev1.PodFailed, reason: "DeadlineExceeded", code: 143}},
	"needs too much memory": {
		does: func(b *fake.Behaviour) { b.OutOfMemory = true }, silent: true,
		want: seen{phase: corev1.PodFailed, reason: "OOMKilled", code: 137},
	},
	"cancelled by the administrator": {
		does: forever, fall: cancelByAdmin,
		want: seen{phase: corev1.PodFailed, reason: "BatchJobCancelled", code: 143},
	},
	"held by the administrator, then let go": {
		held: true, fall: func(_ *testing.T, w *world, j backends.Job) { w.system.AdminRelease(j.ID) },
		want: seen{phase: corev1.PodSucceeded},
	},
	"held, and cancelled while it waits": {
		held: true, fall: cancelByAdmin,
		want: seen{phase: corev1.PodFailed, reason: "BatchJobCancelled", code: 143},
	},
	"requeued": {
		does: twice, fall: func(_ *testing.T, w *world, j backends.Job) { w.system.Requeue(j.ID) },
		want: seen{phase: corev1.PodSucceeded, restarts: 1},
	},
	"killed, then requeued": {
		does: twice, fall: killedFirst,
		want: seen{phase: corev1.PodSucceeded, restarts: 1},
	},
	"preempted": {
		does: forever, fall: func(_ *testing.T, w *world, j backends.Job) { w.system.Preempt(j.ID, 10*time.Second, false) },
		want: seen{phase: corev1.PodFailed, reason: "Preempted", code: 143, disrupted: "PreemptionByBatchSystem"},
	},
	"preempted with a requeue": {
		does: twice, fall: func(_ *testing.T, w *world, j backends.Job) { w.system.Preempt(j.ID, 10*time.Second, true) },
		want: seen{phase: corev1.PodSucceeded, restarts: 1},
	},
	"its host fails": {
		does: forever, fall: failHost(false), silent: true,
		want: seen{phase: corev1.PodFailed, reason: "NodeLost", code: 137, disrupted: "BatchNodeFailure"},
	},
	"its host fails, and it is requeued": {
		does: twice, fall: failHost(true), silent: true,
		want: seen{phase: corev1.PodSucceeded, restarts: 1},
	},
}

// TestFates: each way a job can end or begin anew shows in the pod's phase, reason,
// exit code, restart count and disruption, whatever the clocks of the batch system
// and of its hosts are. A job that is queued again keeps its id.
func TestFates(t *testing.T) {
	for name, f := range fates {
		for _, clocks := range [][2]time.Duration{{0, 0}, {time.Hour, 0}, {-time.Hour, 0}, {0, time.Hour}, {-time.Hour, time.Hour}} {
			t.Run(fmt.Sprintf("%s, clocks %s and %s off", name, clocks[0], clocks[1]), func(t *testing.T) {
				t.Parallel()
				f.meet(t, clocks[0], clocks[1])
			})
		}
	}
}

// meet plays one fate, with the batch system's and its hosts' clocks off.
func (f fate) meet(t *testing.T, system, host time.Duration) {
	cfg := fake.Uniform(2, 16, 64<<10, "a100", 8)
	cfg.Partitions[0].DefaultWalltime = time.Hour
	var w *world
	cfg.Program = func(backends.JobSpec) fake.Behaviour { return f.program(w, host) }
	w = newWorldIn(t, providertest.Sound(), cfg)
	w.system.Skew(system)
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: w.cluster(), Owner: owner, Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api, Objects: providertest.Objects{},
		Gate: &openGate{before: func(name string) {
			for _, j := range w.system.Jobs() {
				if name == "release" && f.held {
					w.system.HoldByAdmin(j.ID)
				}
			}
		}},
		Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1000}})
	uid := w.gang("one", 1)[0]
	for range 4 {
		w.tick()
	}
	p := w.api.Get(uid)
	id := backends.JobID(p.Annotations[wellknown.BatchJobID])
	j, known := w.system.Job(id)
	if state := p.Status.ContainerStatuses; !known || f.held != (len(state) == 1 && state[0].State.Waiting != nil && state[0].State.Waiting.Reason == "Held") {
		t.Fatalf("before its fate, job %q (known %t) and the pod's containers: %+v", id, known, state)
	}
	if f.fall != nil {
		f.fall(t, w, j)
	}
	for range 1500 { // two hours
		if w.tick(); w.settled() {
			break
		}
	}
	p = w.api.Get(uid)
	if got := sight(p); got != f.want {
		t.Errorf("the pod ends as %+v (%s), want %+v", got, p.Status.Message, f.want)
	}
	if jobs := w.system.Jobs(); len(jobs) != 1 || jobs[0].ID != id || p.Annotations[wellknown.BatchJobID] != string(id) || jobs[0].Restarts != int(f.want.restarts) {
		t.Errorf("job %s became %+v; the pod has %q", id, jobs, p.Annotations[wellknown.BatchJobID])
	}
}

// program is what the job does, with the runner's files as its host's clock has them.
func (f fate) program(w *world, skew time.Duration) fake.Behaviour {
	var began time.Time
	set := func(r fake.Run, phase manifest.Phase, code int32) {
		w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
			st := status(g, 0, r.Restart, phase, code)
			st.StartedAt = metav1.NewTime(began.Add(skew))
			if phase.Terminal() {
				st.FinishedAt = metav1.NewTime(r.Now.Add(skew))
				st.Containers[0].State.Terminated.FinishedAt = st.FinishedAt
			}
			g.Pods[0] = st
		})
	}
	b := fake.Behaviour{Duration: 5 * time.Minute, OnStart: func(r fake.Run) {
		began = r.Now
		set(r, manifest.PhaseRunning, 0)
	}}
	if f.does != nil {
		f.does(&b)
	}
	b.OnEnd = func(r fake.Run, s backends.State) {
		switch {
		case s == backends.StateCompleted:
			set(r, manifest.PhaseSucceeded, 0)
		case f.silent:
		case s == backends.StateFailed:
			set(r, manifest.PhaseFailed, int32(b.ExitCode)) //nolint:gosec // small
		default:
			set(r, manifest.PhaseFailed, 143)
		}
	}
	return b
}

// sight sums a pod up.
func sight(p *corev1.Pod) seen {
	out := seen{phase: p.Status.Phase, reason: p.Status.Reason, code: -1}
	for _, c := range p.Status.ContainerStatuses {
		if out.restarts = c.RestartCount; c.State.Terminated != nil {
			out.code = c.State.Terminated.ExitCode
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			out.disrupted = c.Reason
		}
	}
	return out
}
