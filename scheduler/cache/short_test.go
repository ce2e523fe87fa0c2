package cache

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// shortWorld is a gang of three as a scheduler sees it that has just started, or goes on.
type shortWorld struct {
	c   *Cache
	now time.Time
}

func newShortWorld() *shortWorld { return &shortWorld{New(), start.Add(time.Hour)} }

// stale shows the PodGroup, whose condition says since when the gang is short; not at all
// for the zero time.
func (w *shortWorld) stale(minimum int32, since time.Time) {
	pg := podGroup("g", minimum)
	if !since.IsZero() {
		pg.Status.Conditions = []volcanov1.PodGroupCondition{{Type: snapshot.Stale, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
	}
	w.c.SetGroup(pg)
}

// member shows a member that waits, or was bound at a time.
func (w *shortWorld) member(name, uid string, at time.Time) {
	p := pod(name, "g", "1")
	p.UID = types.UID(uid)
	if !at.IsZero() {
		p.Spec.NodeName = "n"
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)}}
	}
	w.c.SetPod(p)
}

// since is for how long the gang has been short, and whether it is.
func (w *shortWorld) since() (time.Duration, bool) {
	g := w.c.Snapshot(w.now).Gang("podgroup/ns/g")
	if g.ShortSince == 0 {
		return 0, false
	}
	return w.now.Sub(time.Unix(0, g.ShortSince)), true
}

func (w *shortWorld) want(t *testing.T, what string, short bool, length time.Duration) {
	t.Helper()
	if got, is := w.since(); is != short || got != length {
		t.Errorf("%s: short %t for %v, want %t for %v", what, is, got, short, length)
	}
}

// A scheduler that starts measures a gang that lost members from when the one before
// saw that, unless the gang was made whole or placed anew after that, and the one before
// was killed when it had not yet told so.
func TestShortnessOutlivesASchedulerAndNoPlacement(t *testing.T) {
	lost := start.Add(30 * time.Minute) // half an hour ago
	before, after := lost.Add(-time.Minute), lost.Add(time.Minute)
	for name, c := range map[string]struct {
		bound []time.Time
		want  time.Duration
	}{
		"as it was":                 {[]time.Time{before, before, {}}, 30 * time.Minute},
		"in the same second":        {[]time.Time{lost, before, {}}, 30 * time.Minute},
		"placed anew in part":       {[]time.Time{after, {}, {}}, 0},
		"was whole, lost one again": {[]time.Time{before, after, {}}, 0},
	} {
		w := newShortWorld()
		w.stale(3, lost)
		for i, at := range c.bound {
			uid := string(rune('a' + i))
			w.member(uid, uid, at)
		}
		w.want(t, name, true, c.want)
		w.now = w.now.Add(time.Minute)
		w.member("d", "d", time.Time{})
		w.want(t, name+", a minute later", true, c.want+time.Minute)
	}
}

// A pod that is made on its node has no time of a binding, and was not there before it
// was made.
func TestPodsMadeOnTheirNodes(t *testing.T) {
	w := newShortWorld()
	w.stale(3, start.Add(-time.Minute)) // pods are made at the start
	p := pod("a", "g", "1")
	p.Spec.NodeName = "n"
	w.c.SetPod(p)
	w.want(t, "made after the gang was short", true, 0)
}

// What a scheduler has seen itself is not put in doubt by a condition that it has not
// come to correct.
func TestShortnessThatASchedulerSawEnd(t *testing.T) {
	lost := start.Add(30 * time.Minute)
	w := newShortWorld()
	w.stale(2, lost)
	w.member("a", "a", lost.Add(-time.Minute))
	w.member("b", "b", lost.Add(-time.Minute))
	w.want(t, "whole", false, 0)
	w.now = w.now.Add(time.Minute)
	w.c.DeletePod("b")
	w.want(t, "one is lost", true, 0)
}

// Bindings that fail again and again do not make a gang whole: neither does its grace start
// anew with each, nor is a minimum that was raised one that it had.
func TestBindingsUnderWayMakeNothingWhole(t *testing.T) {
	w := newShortWorld()
	w.stale(2, time.Time{})
	w.member("a", "a", start)
	w.member("b", "b", time.Time{})
	w.want(t, "one is placed", true, 0)
	try := func(uid string, minutes int, short bool) {
		t.Helper()
		w.now = w.now.Add(time.Minute)
		if !w.c.Assume(uid, Assumption{Node: "n"}) {
			t.Fatal("it is bound already")
		}
		w.want(t, "the other is being bound", false, 0)
		w.c.Forget(uid)
		w.want(t, "the binding failed", short, time.Duration(minutes)*time.Minute)
	}
	try("b", 1, true)
	try("b", 2, true)
	w.member("b", "b", w.now)
	w.want(t, "both are placed", false, 0)
	w.stale(3, time.Time{})
	w.member("c", "c", time.Time{})
	w.want(t, "a third is wanted", false, 0)
	try("c", 0, false)
	w.c.DeletePod("a")
	w.want(t, "one is lost", true, 0)
	w.member("a", "a2", time.Time{})
	w.c.Assume("a2", Assumption{Node: "n"})
	w.want(t, "another is being bound", false, 0)
	w.now = w.now.Add(time.Minute)
	w.c.DeletePod("a2")
	w.want(t, "and is gone", true, time.Minute)
	w.c.DeletePod("b")
	w.want(t, "nothing is left", false, 0)
	w.member("d", "d", w.now)
	w.want(t, "one is placed anew", true, 0)
}

// Members that are replaced are missing for a moment: the grace goes on afterwards where it
// stood. It starts anew once the gang was whole or held nothing.
func TestMembersThatAreReplacedLeaveTheGraceAsItWas(t *testing.T) {
	w := newShortWorld()
	w.stale(2, time.Time{})
	run := func(uid string) {
		p := pod(uid, "g", "1")
		p.UID, p.Spec.NodeName, p.Status.Phase = types.UID(uid), "n", corev1.PodRunning
		w.c.SetPod(p)
	}
	replaced := func(was, is string) {
		t.Helper()
		w.now = w.now.Add(4 * time.Minute)
		w.c.DeletePod(was)
		w.want(t, was+" is gone", false, 0)
		w.now = w.now.Add(time.Hour)
		w.member(is, is, time.Time{})
	}
	run("a")
	w.member("b", "b", time.Time{})
	w.want(t, "one runs", true, 0)
	replaced("b", "c")
	w.want(t, "another waits", true, 4*time.Minute)
	replaced("c", "d")
	w.want(t, "a third waits", true, 8*time.Minute)
	replaced("d", "e")
	run("e")
	w.want(t, "it is whole", false, 0)
	w.c.DeletePod("e")
	w.want(t, "one is gone at once", false, 0)
	w.member("f", "f", time.Time{})
	w.want(t, "another waits", true, 0)
	replaced("f", "g")
	w.want(t, "and another", true, 4*time.Minute)
	w.c.DeletePod("a")
	w.want(t, "nothing is left", false, 0)
	w.member("h", "h", w.now)
	w.want(t, "one is placed anew", true, 0)
}

// What runs of a gang whose owner was scaled below its minimum for long is not short when the
// owner is scaled up again; what lost a member before, or a moment ago, is.
func TestScaledDownAndUpAgain(t *testing.T) {
	for name, c := range map[string]struct {
		lost  bool // a member waits for its place when the pods become too few
		away  time.Duration
		short bool
	}{
		"for long":                  {false, 10 * time.Minute, false},
		"for a moment":              {false, time.Minute, true},
		"when it was short already": {true, 10 * time.Minute, true},
	} {
		w := newShortWorld()
		run := func(uid string) {
			p := pod(uid, "g", "1")
			p.UID, p.Spec.NodeName, p.Status.Phase = types.UID(uid), "n", corev1.PodRunning
			w.c.SetPod(p)
		}
		w.stale(3, time.Time{})
		run("a")
		run("b")
		run("c")
		w.want(t, name+": all runs", false, 0)
		if c.lost {
			w.c.DeletePod("c")
			w.member("c", "c2", time.Time{})
			w.want(t, name+": a member waits", true, 0)
			w.now = w.now.Add(time.Minute)
		}
		w.c.DeletePod("c")
		w.c.DeletePod("c2")
		w.want(t, name+": a pod is missing", false, 0)
		w.now = w.now.Add(c.away)
		w.member("d", "d", time.Time{})
		if _, short := w.since(); short != c.short {
			t.Errorf("%s: with three pods again it is short: %t", name, short)
		}
		w.now = w.now.Add(time.Minute)
		w.member("d", "d2", time.Time{})
		if _, short := w.since(); short != c.short {
			t.Errorf("%s: a minute later it is short: %t", name, short)
		}
		if w.c.DeletePod("b"); !c.short {
			w.c.DeletePod("d")
			w.member("e", "e", time.Time{})
			w.want(t, name+": one is lost", true, 0)
		}
	}
}
