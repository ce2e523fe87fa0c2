package binder

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// queueing is a binder whose pods go to nodes of Volcano's device plugin, and what the
// watch shows of them.
type queueing struct {
	*Binder
	now  time.Time
	pods map[string]*corev1.Pod
}

func newQueueing(names ...string) *queueing {
	q := &queueing{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), pods: map[string]*corev1.Pod{}}
	q.Binder = New(Config{Cache: cache.New(), Client: fake.NewClientset(), Now: func() time.Time { return q.now }})
	asks := corev1.ResourceList{wellknown.ResourceVGPUNumber: resource.MustParse("1")}
	for _, name := range names {
		q.pods[name] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.PodGroupName: "g"}},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano, Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{Limits: asks}}}},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		}
		q.Cache.SetPod(q.pods[name])
	}
	return q
}

func (q *queueing) task(pod, node string) *bindTask {
	return &bindTask{gang: "podgroup/ns/g", bind: plan.Bind{Namespace: "ns", Name: pod, UID: pod, Node: node}, since: q.now}
}

// show has the watch show a pod as it is after a change.
func (q *queueing) show(pod string, change func(*corev1.Pod)) {
	p := q.pods[pod].DeepCopy()
	change(p)
	q.pods[pod] = p
	q.Cache.SetPod(p)
}

// do takes one step: a word and a pod, and a node where it matters.
func (q *queueing) do(step string) {
	f := append(strings.Fields(step), "", "")
	pod, node := f[1], f[2]
	switch f[0] {
	case "place":
		q.Cache.Assume(pod, cache.Assumption{Node: node})
	case "bound": // as a binding leaves it: the plugin has yet to serve it
		q.show(pod, func(p *corev1.Pod) {
			p.Spec.NodeName = node
			p.Annotations[volcanogpu.Node], p.Annotations[volcanogpu.Phase] = node, volcanogpu.Allocating
			p.Annotations[volcanogpu.ToAllocate] = "GPU-a,NVIDIA,1,1:"
		})
	case "served":
		q.show(pod, func(p *corev1.Pod) { p.Annotations[volcanogpu.Phase] = "success" })
	case "runs":
		q.show(pod, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
	case "failed":
		q.show(pod, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	case "gone":
		q.Cache.DeletePod(pod)
	case "forget": // its binding did not happen, as far as the cache is told
		q.Cache.Forget(pod)
	case "pass":
		q.pass(q.task(pod, node))
	default:
		panic("no step is called " + step)
	}
}

// TestTurnsOfANode: who may be sent to a node of Volcano's plugin, by what became of the
// pod that was sent before.
func TestTurnsOfANode(t *testing.T) {
	for name, row := range map[string]struct {
		before string // steps with ; between, "take" among them
		waits  string // for whom b then waits, "" when it may go
	}{
		"nobody was sent":                                      {"", ""},
		"the one before is under way":                          {"take a n", "ns/a"},
		"it is bound and not served":                           {"take a n; bound a n", "ns/a"},
		"it is served":                                         {"take a n; bound a n; served a", ""},
		"it runs, whatever its annotations say":                {"take a n; bound a n; runs a", ""},
		"it was rejected by kubelet":                           {"take a n; bound a n; failed a", ""},
		"it is gone":                                           {"take a n; bound a n; gone a", ""},
		"it was deleted before it was bound":                   {"take a n; gone a", ""},
		"it was bound elsewhere":                               {"take a n; bound a m", ""},
		"its binding was refused":                              {"take a n; forget a; pass a n", ""},
		"its binding was given up by the cache alone":          {"take a n; forget a", ""},
		"it passes while it is still counted":                  {"take a n; pass a n", ""},
		"another passes that had no turn":                      {"take a n; pass c n", "ns/a"},
		"it was sent to another node":                          {"place a m; take a m", ""},
		"an earlier scheduler sent one":                        {"bound a n", "ns/a"},
		"an earlier scheduler sent two":                        {"bound c n; bound a n", "ns/a"},
		"an earlier one's is served":                           {"bound a n; served a", ""},
		"an earlier one's waits behind ours":                   {"take c n; bound c n; served c; bound a n", "ns/a"},
		"the third of three":                                   {"take a n; bound a n; served a; take c n", "ns/c"},
		"its own turn is taken again, since an answer is lost": {"take b n", ""},
	} {
		q := newQueueing("a", "b", "c")
		for _, pod := range []string{"a", "b", "c"} {
			q.do("place " + pod + " n")
		}
		for step := range strings.SplitSeq(row.before, "; ") {
			f := strings.Fields(step)
			switch {
			case len(f) == 0:
			case f[0] == "take":
				if before, ok := q.take(q.task(f[1], f[2]), q.now); !ok {
					t.Errorf("%s: %s waits for %s", name, step, before.name)
				}
			default:
				q.do(step)
			}
		}
		before, ok := q.take(q.task("b", "n"), q.now)
		if ok != (row.waits == "") || !ok && before.name != row.waits {
			t.Errorf("%s: b may go: %t, or waits for %q; want %q", name, ok, before.name, row.waits)
		}
		q.Close()
	}
}

// TestWaitingForATurn: who waits asks again, ever less often, and is given up with a reason
// once the one before is not served in time, also one that an earlier scheduler sent; who is
// gone leaves nothing behind.
func TestWaitingForATurn(t *testing.T) {
	for name, first := range map[string]func(q *queueing) (bool, error){
		"ours":       func(q *queueing) (bool, error) { q.do("place a n"); return q.inTurn(t.Context(), q.task("a", "n")) },
		"an earlier": func(q *queueing) (bool, error) { q.do("bound a n"); return true, nil },
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueing("a", "b")
			defer q.Close()
			if ok, err := first(q); !ok || err != nil {
				t.Fatalf("the first may go: %t, %v", ok, err)
			}
			q.do("place b n")
			b := q.task("b", "n")
			for _, waited := range []time.Duration{0, serveWithin} {
				q.now = b.since.Add(waited)
				if ok, err := q.inTurn(t.Context(), b); ok || err != nil {
					t.Fatalf("after %s the second may go: %t, %v", waited, ok, err)
				}
				if p, _ := q.Cache.Pod("b"); p.Node != "n" {
					t.Fatalf("after %s the second is given up", waited)
				}
			}
			again := time.Now().Add(30 * time.Second)
			for q.binds.Len() == 0 && time.Now().Before(again) {
				<-time.After(turnAgain / 5)
			}
			if q.binds.Len() != 1 {
				t.Error("the second does not ask again")
			}
			q.now = b.since.Add(serveWithin + 1)
			if ok, err := q.inTurn(t.Context(), b); ok || err != nil {
				t.Fatalf("the second may go: %t, %v", ok, err)
			}
			if p, _ := q.Cache.Pod("b"); p.Node != "" {
				t.Error("the second still waits for a plugin that serves nobody")
			}
			held := ""
			for _, g := range q.Cache.Snapshot(q.now).Gangs {
				held += g.Hold
			}
			if !strings.Contains(held, "pod b cannot go to node n: Volcano's device plugin there has not served pod ns/a") {
				t.Errorf("its gang is told %q", held)
			}
			q.do("gone a")
			if ok, err := q.inTurn(t.Context(), q.task("a", "n")); ok || err != nil {
				t.Errorf("a pod that is gone may go: %t, %v", ok, err)
			}
			q.do("place b n")
			if ok, err := q.inTurn(t.Context(), q.task("b", "n")); !ok || err != nil {
				t.Errorf("after a pod that is gone the next may go: %t, %v", ok, err)
			}
		})
	}
	for waited, want := range map[time.Duration]time.Duration{0: turnAgain, 8 * time.Second: time.Second, time.Hour: turnAgainAtMost} {
		if got := askAgain(waited); got != want {
			t.Errorf("after %s it asks again in %s, want %s", waited, got, want)
		}
	}
}

// TestEndedPodsAreServedNoMore: what ended pods of the node would still get is taken from
// them before the next is sent, and a right that is missing holds nobody up.
func TestEndedPodsAreServedNoMore(t *testing.T) {
	pods := schema.GroupResource{Resource: "pods"}
	for name, row := range map[string]struct {
		answer error
		fails  bool
	}{
		"it is taken":        {nil, false},
		"it is gone":         {apierrors.NewNotFound(pods, "a"), false},
		"another has it":     {apierrors.NewConflict(pods, "a", errors.New("uid")), false},
		"it is not allowed":  {apierrors.NewForbidden(pods, "a", errors.New("no")), false},
		"nobody answers yet": {apierrors.NewInternalError(errors.New("later")), true},
	} {
		q := newQueueing("a", "b")
		var patched []string
		client := fake.NewClientset()
		client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if p, ok := a.(clienttesting.PatchAction); ok {
				patched = append(patched, p.GetName()+" "+string(p.GetPatch()))
			}
			return true, &corev1.Pod{}, row.answer
		})
		q.Client = client
		q.do("bound a n")
		q.do("failed a")
		q.do("place b n")
		ok, err := q.inTurn(t.Context(), q.task("b", "n"))
		if want := []string{`a {"metadata":{"annotations":{"` + volcanogpu.ToAllocate + `":null},"uid":"a"}}`}; !ok || (err != nil) != row.fails || !slices.Equal(patched, want) {
			t.Errorf("%s: b may go: %t, %v; patched %q", name, ok, err, patched)
		}
		q.Close()
	}
}

// TestOneOfANodeAtATime plays what may happen to pods in any order: at most one of a node
// is under way that the plugin has not served, and where none is the next may go.
func TestOneOfANodeAtATime(t *testing.T) {
	names, nodes := []string{"a", "b", "c", "d"}, []string{"n", "m"}
	rapid.Check(t, func(t *rapid.T) {
		q := newQueueing(names...)
		defer q.Close()
		at, on := map[string]string{}, map[string]string{} // in which state a pod is, and for which node
		turn := map[string]string{}                        // who was sent last to a node
		now := func(pod, node string) string { return at[pod] + " " + fmt.Sprint(on[pod] == node) }
		for _, pod := range names {
			on[pod] = rapid.SampledFrom(nodes).Draw(t, "node")
			at[pod] = rapid.SampledFrom([]string{"placed", "bound"}).Draw(t, "state") // bound by an earlier scheduler
			q.do(map[string]string{"placed": "place ", "bound": "bound "}[at[pod]] + pod + " " + on[pod])
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			pod := rapid.SampledFrom(names).Draw(t, "pod")
			word := rapid.SampledFrom([]string{"take", "take", "take", "bound", "served", "runs", "failed", "gone", "refuse", "forget", "place"}).Draw(t, "step")
			switch now(pod, on[pod]) + " " + word {
			case "placed true take", "sent true take":
				before, ok := q.take(q.task(pod, on[pod]), q.now)
				busy := slices.IndexFunc(names, func(o string) bool {
					return o != pod && on[o] == on[pod] && (at[o] == "sent" || at[o] == "bound")
				})
				if ok != (busy < 0) {
					t.Fatalf("%s may go to %s: %t, waits for %q; %v %v", pod, on[pod], ok, before.name, at, on)
				}
				if ok {
					at[pod], turn[on[pod]] = "sent", pod
				}
			case "sent true bound":
				q.do("bound " + pod + " " + on[pod])
				at[pod] = "bound"
			case "bound true served", "bound true runs", "bound true failed", "bound true gone", "sent true gone", "placed true gone":
				q.do(word + " " + pod)
				at[pod] = "done"
			case "sent true refuse":
				q.do("forget " + pod)
				q.do("pass " + pod + " " + on[pod])
				at[pod], turn[on[pod]] = "idle", ""
			case "sent true forget", "placed true forget":
				q.do("forget " + pod)
				at[pod] = "idle"
			case "idle true place":
				on[pod] = rapid.SampledFrom(nodes).Draw(t, "node")
				q.do("place " + pod + " " + on[pod])
				if at[pod] = "placed"; turn[on[pod]] == pod {
					at[pod] = "sent" // it comes back to the node where it has its turn yet
				}
			}
		}
	})
}
