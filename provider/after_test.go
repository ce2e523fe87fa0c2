package provider_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
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

// course is what becomes of the first of two gangs, of which the second comes after
// the first.
type course string

const (
	succeeds  course = "succeeds"
	fails     course = "fails"
	cancelled course = "is cancelled"
	requeued  course = "is requeued"
	mistaken  course = "is requeued, which is taken for a failure" // as by Slurm 22.05
	deleted   course = "is deleted"
	replaced  course = "is replaced"
	forgotten course = "succeeds and is forgotten"
	removed   course = "succeeds and is removed"
)

var courses = []course{succeeds, fails, cancelled, requeued, mistaken, deleted, replaced, forgotten, removed}

// couple is a first gang and one that comes after it.
type couple struct {
	*world
	course        course
	first, second []types.UID
	key           backends.Key // of the first
	met           bool         // its course
}

// early binds a gang that others may be queued behind.
func (w *world) early(name string, size int) []types.UID {
	uids := w.gang(name, size)
	for _, uid := range uids {
		p := w.api.Get(uid).DeepCopy()
		p.Annotations[wellknown.QueueEarly] = "true"
		w.api.Create(p)
	}
	return uids
}

// after binds a gang that comes after another's attempt.
func (w *world) after(name string, size int, other string) []types.UID {
	uids := w.gang(name, size)
	for _, uid := range uids {
		p := w.api.Get(uid).DeepCopy()
		p.Annotations[wellknown.After] = "attempt-" + other
		w.api.Create(p)
	}
	return uids
}

// newCouple has a batch system that forgets ended jobs within a few ticks, and able
// or not to make jobs wait for others.
func newCouple(t *testing.T, f course, lasts time.Duration, able bool, gate *providertest.Gate) *couple {
	c := &couple{course: f}
	cfg := fake.Uniform(4, 16, 64<<10, "a100", 8)
	cfg.MinJobAge, cfg.RequeueDelay, cfg.Capabilities.After = 20*time.Second, 10*time.Second, able
	cfg.RequeueFails = f == mistaken
	set := func(r fake.Run, phase manifest.Phase, code int32) {
		c.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
			for rank := range g.Output.Pods {
				g.Pods[rank] = status(g, rank, r.Restart, phase, code)
			}
			if phase.Terminal() {
				g.End = &manifest.End{Restart: r.Restart, ExitCode: int(code)}
			}
		})
	}
	cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
		b := fake.Behaviour{Duration: lasts, OnStart: func(r fake.Run) { set(r, manifest.PhaseRunning, 0) }}
		c.stager.Change(spec.Key, func(g *providertest.StagedGang) {
			if gangOf(g) == "first" && f == fails {
				b.ExitCode = 3
			}
			if gangOf(g) == "first" && (f == deleted || f == replaced || f == cancelled) {
				b.Forever = true
			}
		})
		b.OnEnd = func(r fake.Run, s backends.State) {
			switch s {
			case backends.StateCompleted:
				set(r, manifest.PhaseSucceeded, 0)
			case backends.StatePending: // requeued
			default:
				set(r, manifest.PhaseFailed, 143)
			}
		}
		return b
	}
	c.world = newWorldIn(t, gate, cfg)
	return c
}

// meet lets the first meet its course once it runs.
func (c *couple) meet() {
	for _, uid := range c.first {
		if p := c.api.Get(uid); p != nil && p.Annotations[wellknown.BatchJobID] != "" {
			c.key = backends.Key(p.Annotations[wellknown.SubmitIntent])
		}
	}
	if c.met || c.key == "" {
		return
	}
	var job *backends.Job
	for _, j := range c.system.Jobs() {
		if j.Key == c.key && j.State == backends.StateRunning {
			job = &j
		}
	}
	drop := func() {
		for _, uid := range c.first {
			c.api.Delete(uid, metav1.NewTime(c.clock.Now()))
		}
	}
	switch {
	case c.course == removed:
		if slices.ContainsFunc(c.first, func(uid types.UID) bool {
			p := c.api.Get(uid)
			return p != nil && p.Status.Phase != corev1.PodSucceeded
		}) {
			return
		}
		drop()
	case job == nil:
		return
	case c.course == cancelled:
		if err := c.system.Cancel(c.t.Context(), backends.JobRef{ID: job.ID}); err != nil {
			c.t.Fatal(err)
		}
	case c.course == mistaken && (c.second == nil || c.jobOf(c.second[0]) == nil):
		return // nothing waits for it yet
	case c.course == requeued, c.course == mistaken:
		c.system.Requeue(job.ID)
	case c.course == deleted:
		drop()
	case c.course == replaced:
		drop()
		c.early("first2", len(c.first))
	}
	c.met = true
}

// check demands that nothing of the second starts before the first has completed.
func (c *couple) check() {
	done := false
	for _, e := range c.system.History() {
		switch {
		case c.key != "" && e.Key == c.key && e.What == "end "+string(backends.StateCompleted):
			done = true
		case e.What == "start" && slices.ContainsFunc(c.second, func(uid types.UID) bool {
			p := c.api.Get(uid)
			return p != nil && p.Annotations[wellknown.SubmitIntent] == string(e.Key)
		}) && !done:
			c.t.Fatalf("job %s of the second gang started before the first had completed:\n%v", e.Job, c.system.History())
		}
	}
}

// mistakes counts the pods that ended because what they came after was requeued.
var mistakes atomic.Int32

// lead is one life of a couple.
func lead(t *testing.T, f course, seed uint64, able, slow bool, gate *providertest.Gate) {
	rng := rand.New(rand.NewPCG(seed, 11))
	c := newCouple(t, f, time.Duration(10+rng.IntN(40))*time.Second, able, gate)
	c.first = c.early("first", 1+rng.IntN(2))
	bindAt, awayAt, away := rng.IntN(8), 2+rng.IntN(10), 0
	if f == forgotten || rng.IntN(3) == 0 {
		away = rng.IntN(10) // ticks, in which the batch system forgets what ended
	}
	for i := range 400 { // what is gone is waited for during 12 minutes
		if i == bindAt {
			c.second = c.after("second", 1+rng.IntN(2), "first")
		}
		c.meet()
		c.obey()
		if slow && c.key != "" && c.second != nil && gate.Meanwhile == nil {
			// A submission takes so long that meanwhile the first ends and is forgotten.
			gate.Meanwhile = func(name string) {
				if name == "submit" {
					c.system.Advance(2 * time.Minute)
				}
			}
		}
		if i >= awayAt && i < awayAt+away {
			c.system.Advance(tickTime)
			c.clock.SetTime(c.system.Now())
		} else {
			c.tick()
		}
		c.check()
		if i > max(bindAt, awayAt+away, 12) && c.settled() {
			break
		}
	}
	for _, uid := range c.second {
		p := c.api.Get(uid)
		started := p != nil && c.system.Starts(owner, backends.Key(p.Annotations[wellknown.SubmitIntent])) > 0
		switch {
		case p == nil:
			t.Errorf("pod %s vanished", uid)
		case len(p.Finalizers) > 0:
			t.Errorf("pod %s keeps its finalizer", uid)
		case f == succeeds || f == requeued || f == forgotten:
			if p.Status.Phase != corev1.PodSucceeded {
				t.Errorf("pod %s is %s (%s: %s), and what it comes after succeeded", uid, p.Status.Phase, p.Status.Reason, p.Status.Message)
			}
		case f == removed && started:
		case f == mistaken && p.Status.Phase == corev1.PodSucceeded: // it was queued after that
		case p.Status.Phase != corev1.PodFailed || started:
			t.Errorf("pod %s is %s (%s: %s, started %v), and what it comes after %s", uid, p.Status.Phase, p.Status.Reason, p.Status.Message, started, f)
		case f == mistaken && p.Status.Reason == wellknown.ReasonPredecessor:
			mistakes.Add(1)
		case p.Status.Reason != wellknown.ReasonPredecessor && away == 0:
			t.Errorf("pod %s failed for %s: %s", uid, p.Status.Reason, p.Status.Message)
		}
	}
	for _, p := range c.api.List() {
		c.api.Delete(p.UID, metav1.NewTime(c.clock.Now()))
	}
	for range 60 {
		c.tick()
		c.obey()
		if c.stager.Len() == 0 && !c.liveJobs() {
			break
		}
	}
	if n := c.stager.Len(); n > 0 || c.liveJobs() {
		t.Errorf("%d directories are left, and jobs %+v", n, c.system.Jobs())
	}
}

// TestAfterOthers: whatever becomes of a gang, and whatever fails at whatever effect,
// one that comes after it never starts before it has completed, and never waits for
// ever.
func TestAfterOthers(t *testing.T) {
	points, which, faults := 0, uint64(1), []providertest.Fault{providertest.LostReply, providertest.CrashBefore, providertest.CrashAfter} // at the first of each effect
	if os.Getenv("ISTHMUS_SEEDS") != "" {
		which, faults = 0, providertest.Faults()
	}
	t.Run("lives", func(t *testing.T) {
		for _, f := range courses {
			for seed := range uint64(3) {
				for _, how := range []string{"able", "unable", "slow"} {
					t.Run(strings.ReplaceAll(fmt.Sprintf("%s/%d/%s", f, seed, how), " ", "_"), func(t *testing.T) {
						t.Parallel()
						lead(t, f, seed, how != "unable", how == "slow", providertest.Sound())
					})
				}
			}
			probe := providertest.Sound()
			lead(t, f, 1, true, false, probe)
			for _, name := range slices.Sorted(maps.Keys(probe.Counts())) {
				for _, nth := range occurrences(probe.Count(name), which) {
					for _, m := range faults {
						points++
						t.Run(strings.ReplaceAll(fmt.Sprintf("%s/%s-%d/%s", f, name, nth, m), " ", "_"), func(t *testing.T) {
							t.Parallel()
							lead(t, f, 1, true, false, providertest.Faulty(m, name, nth))
						})
					}
				}
			}
		}
	})
	if mistakes.Load() == 0 {
		t.Error("no requeue was taken for a failure")
	}
	if !t.Failed() {
		t.Logf("%d crash points over %d fates: no early start, none waits for ever", points, len(courses))
	}
}
