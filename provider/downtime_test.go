package provider_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// ending is one way a job ends while nobody looks.
type ending struct {
	name string
	// what the program does by itself, and what happens to the job.
	does func(*fake.Behaviour)
	fate func(*testing.T, *fake.System, backends.JobID)
	// silent: the pod runner was killed before it could write the end.
	silent bool
	// want, and wantPurged when the batch system has forgotten the job: then only
	// what the pod runner wrote is left to tell.
	want, wantPurged end
}

// end is what a user sees of it.
type end struct {
	phase  corev1.PodPhase
	reason string
	code   int32
}

var endings = []ending{
	{name: "done", does: func(*fake.Behaviour) {}, want: end{corev1.PodSucceeded, "", 0}, wantPurged: end{corev1.PodSucceeded, "", 0}},
	{name: "three", does: func(b *fake.Behaviour) { b.ExitCode = 3 }, want: end{corev1.PodFailed, "", 3}, wantPurged: end{corev1.PodFailed, "", 3}},
	{
		name: "oom", does: func(b *fake.Behaviour) { b.OutOfMemory = true }, silent: true,
		want: end{corev1.PodFailed, "OOMKilled", 137}, wantPurged: end{corev1.PodFailed, "BatchJobLost", 137},
	},
	{
		name: "late", does: func(b *fake.Behaviour) { b.Forever = true }, // ended by its time limit
		want: end{corev1.PodFailed, "DeadlineExceeded", 143}, wantPurged: end{corev1.PodFailed, "", 143},
	},
	{
		name: "cancelled", does: func(b *fake.Behaviour) { b.Forever = true },
		fate: func(t *testing.T, s *fake.System, id backends.JobID) {
			if err := s.Cancel(t.Context(), backends.JobRef{ID: id, User: "alice"}); err != nil { // by an administrator
				t.Error(err)
			}
		},
		want: end{corev1.PodFailed, "BatchJobCancelled", 143}, wantPurged: end{corev1.PodFailed, "", 143},
	},
	{
		name: "preempted", does: func(b *fake.Behaviour) { b.Forever = true },
		fate: func(_ *testing.T, s *fake.System, id backends.JobID) { s.Preempt(id, 10*time.Second, false) },
		want: end{corev1.PodFailed, "Preempted", 143}, wantPurged: end{corev1.PodFailed, "", 143},
	},
}

// TestDownForADay: the daemon is away for 24 hours while 100 jobs end in every
// way. With accounting each pod then has the right exit code and reason; without,
// long after the batch system has forgotten the jobs, what the pod runner wrote
// still tells the exit codes (R5).
func TestDownForADay(t *testing.T) {
	for _, accounting := range []bool{true, false} {
		t.Run(fmt.Sprintf("accounting=%v", accounting), func(t *testing.T) {
			var w *world
			of := map[string]*ending{}
			cfg := fake.Uniform(20, 64, 512<<10, "a100", 8)
			cfg.Partitions[0].DefaultWalltime = 2 * time.Hour
			cfg.MinJobAge = 10 * time.Second
			if accounting {
				cfg.MinJobAge = 7 * 24 * time.Hour
			}
			cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
				var e *ending
				w.stager.Change(spec.Key, func(g *providertest.StagedGang) { e = of[gangOf(g)] })
				set := func(r fake.Run, phase manifest.Phase, code int32) {
					w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
						for rank := range g.Output.Pods {
							st := status(g, rank, r.Restart, phase, code)
							if phase.Terminal() { // it tells whether the batch system ended the pod
								st.FinishedAt = metav1.NewTime(r.Now)
							}
							g.Pods[rank] = st
						}
						if phase.Terminal() {
							g.End = &manifest.End{Restart: r.Restart, ExitCode: int(code)}
						}
					})
				}
				b := fake.Behaviour{
					Duration: time.Hour,
					OnStart:  func(r fake.Run) { set(r, manifest.PhaseRunning, 0) },
				}
				e.does(&b)
				b.OnEnd = func(r fake.Run, s backends.State) {
					switch {
					case e.silent:
					case s == backends.StateCompleted:
						set(r, manifest.PhaseSucceeded, 0)
					case s == backends.StateFailed:
						set(r, manifest.PhaseFailed, int32(b.ExitCode)) //nolint:gosec // small
					default:
						set(r, manifest.PhaseFailed, 143)
					}
				}
				return b
			}
			w = newWorldIn(t, providertest.Sound(), cfg)
			want := map[types.UID]*ending{}
			for i := range 100 {
				e := &endings[i%len(endings)]
				name := fmt.Sprintf("%s%d", e.name, i)
				of[name] = e
				for _, uid := range w.gang(name, 1) {
					want[uid] = e
				}
			}
			for range 4 {
				w.tick()
			}
			jobs := map[types.UID]backends.JobID{}
			for uid := range want {
				p := w.api.Get(uid)
				if p.Status.Phase != corev1.PodRunning {
					t.Fatalf("pod %s is %s before the daemon goes", p.Name, p.Status.Phase)
				}
				jobs[uid] = backends.JobID(p.Annotations[wellknown.BatchJobID])
			}
			// Nobody looks for a day.
			for uid, e := range want {
				if e.fate != nil {
					e.fate(t, w.system, jobs[uid])
				}
			}
			w.system.Advance(24 * time.Hour)
			w.clock.SetTime(w.system.Now())
			w.boot()
			for range 60 { // without accounting, a job that left no word is given two minutes
				w.tick()
			}
			right := 0
			for uid, e := range want {
				p := w.api.Get(uid)
				should := e.want
				if !accounting {
					should = e.wantPurged
				}
				var got end
				if len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Terminated != nil {
					got = end{p.Status.Phase, p.Status.Reason, p.Status.ContainerStatuses[0].State.Terminated.ExitCode}
				}
				if got != should {
					t.Errorf("pod %s: %+v (%s), want %+v", p.Name, got, p.Status.Phase, should)
				} else {
					right++
				}
			}
			t.Logf("%d of %d pods have the right exit code and reason after a day", right, len(want))
		})
	}
}
