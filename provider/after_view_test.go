package provider_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// lagging is a view whose watches show something else than the API server has.
type lagging struct {
	provider.PodAPI
	list func([]*corev1.Pod) []*corev1.Pod
}

// List implements provider.PodAPI.
func (l *lagging) List() []*corev1.Pod { return l.list(l.PodAPI.List()) }

// jobOf is the job that a pod's intent leads to, nil when there is none.
func (c *couple) jobOf(uid types.UID) *backends.Job {
	p := c.api.Get(uid)
	for _, j := range c.system.Jobs() {
		if p != nil && p.Annotations[wellknown.SubmitIntent] == string(j.Key) {
			return &j
		}
	}
	return nil
}

// R4 for gangs that come after others: the view of the node of those others shows
// nothing, a part or an old state for an hour, that of the own node is right. What
// comes after neither fails nor is cancelled, says what it waits for, and goes on
// with the true view.
func TestAfterOnAWrongView(t *testing.T) {
	old := func(c *couple) map[types.UID]*corev1.Pod {
		out := map[types.UID]*corev1.Pod{}
		for _, uid := range c.first {
			out[uid] = c.api.Get(uid).DeepCopy()
		}
		return out
	}
	part := func(p, _ *corev1.Pod) *corev1.Pod {
		if p.Name == "first-0" {
			return p
		}
		return nil
	}
	for _, view := range []struct {
		name string
		// show is what stands for a pod of the first: now, and as it was when it was bound.
		show func(now, old *corev1.Pod) *corev1.Pod
		live bool // the API server itself shows it so
	}{
		{"empty", func(_, _ *corev1.Pod) *corev1.Pod { return nil }, false},
		{"filtered", part, false},
		{"filtered-live", part, true},
		{"stale", func(_, old *corev1.Pod) *corev1.Pod { return old }, false},
	} {
		for _, state := range []string{"bound", "held"} {
			t.Run(view.name+"/"+state, func(t *testing.T) {
				t.Parallel()
				gate := providertest.Sound()
				c := newCouple(t, succeeds, 90*time.Minute, true, gate)
				c.first = c.early("first", 2)
				before := old(c)
				var wrong atomic.Bool
				list := func(pods []*corev1.Pod) (out []*corev1.Pod) {
					for _, p := range pods {
						if wrong.Load() && before[p.UID] != nil {
							p = view.show(p, before[p.UID])
						}
						if p != nil {
							out = append(out, p)
						}
					}
					return out
				}
				var api provider.PodAPI = &lagging{PodAPI: c.api, list: list}
				if view.live {
					api = &distorted{PodAPI: c.api, list: list}
				}
				boot := func() {
					c.bridge = newBridge(c.system, c.stager, api, providertest.Objects{}, c.clock, "node-main", func(o *provider.Options) { o.Gate = gate })
					c.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{
						{Name: "node-main", Partition: "main", MaxPodsPending: 1000}, {Name: "node-other", Partition: "main", MaxPodsPending: 1000},
					})
				}
				boot()
				for range 4 {
					c.meet()
					c.tick()
				}
				if p := c.api.Get(c.first[1]); p.Status.Phase != corev1.PodRunning {
					t.Fatalf("the first is %s: %s", p.Status.Phase, waits(p))
				}
				if state == "bound" {
					wrong.Store(true)
					boot() // a daemon that starts into the wrong view
				} else {
					gate.Meanwhile = func(name string) {
						if name == "record" {
							wrong.Store(true)
						}
					}
				}
				c.second = c.after("second", 1, "first")
				p := c.api.Get(c.second[0]).DeepCopy()
				p.Spec.NodeName = "node-other"
				c.api.Create(p)
				for range 720 { // an hour
					c.bridge.Pass(t.Context(), true)
					c.bridge.Wait()
					c.system.Advance(tickTime)
					c.clock.SetTime(c.system.Now())
					c.check()
					if p := c.api.Get(c.second[0]); p.Status.Phase != corev1.PodPending {
						t.Fatalf("the second is %s: %s: %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
					}
				}
				job := c.jobOf(c.second[0])
				waiting := job != nil && job.State == backends.StatePending
				switch {
				case view.name == "stale": // what we write ourselves shows the newest state
				case state == "held":
					waiting = waiting && job.Held
				default:
					waiting = job == nil
				}
				if !wrong.Load() || !waiting {
					t.Fatalf("the second, which should be %s, has the job %+v", state, job)
				}
				if said := waits(c.api.Get(c.second[0])); job == nil && !strings.Contains(said, "comes after") {
					t.Errorf("it waits for %q", said)
				}
				wrong.Store(false)
				for range 60 {
					c.tick()
					for _, j := range c.system.Jobs() {
						if j.State == backends.StateRunning {
							c.system.Finish(j.ID, 0, 0)
						}
					}
					c.check()
					if c.settled() {
						break
					}
				}
				if p := c.api.Get(c.second[0]); p.Status.Phase != corev1.PodSucceeded {
					t.Errorf("with the true view the second is %s (%s: %s), %s", p.Status.Phase, p.Status.Reason, p.Status.Message, waits(p))
				}
			})
		}
	}
}

// The launcher of a gang that is not queued early lets a program end with 0 that was
// told to end. So nothing is queued behind it, whoever asks for that, until all its
// pods have succeeded.
func TestAfterOneThatIsAlone(t *testing.T) {
	for _, f := range []course{succeeds, deleted} {
		t.Run(strings.ReplaceAll(string(f), " ", "_"), func(t *testing.T) {
			c := newCouple(t, f, 2*time.Minute, true, providertest.Sound())
			c.first = c.gang("first", 2)
			c.second = c.after("second", 1, "first")
			said := ""
			for i := range 400 {
				if i > 8 {
					c.meet()
				}
				c.tick()
				c.obey()
				c.check()
				done := c.api.Get(c.first[0])
				if job := c.jobOf(c.second[0]); job != nil && (done == nil || done.Status.Phase != corev1.PodSucceeded) {
					t.Fatalf("a job of the second before the first has succeeded: %+v", job)
				}
				if p := c.api.Get(c.second[0]); p.Status.Phase == corev1.PodPending {
					said += waits(p)
				}
				if c.settled() {
					break
				}
			}
			p, want := c.api.Get(c.second[0]), corev1.PodSucceeded
			if f == deleted {
				want = corev1.PodFailed
			}
			if p.Status.Phase != want || want == corev1.PodFailed && p.Status.Reason != wellknown.ReasonPredecessor {
				t.Errorf("the second is %s (%s: %s)", p.Status.Phase, p.Status.Reason, p.Status.Message)
			}
			if !strings.Contains(said, wellknown.QueueEarly) {
				t.Errorf("it waited for %q", said)
			}
		})
	}
}
