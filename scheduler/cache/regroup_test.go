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

// regrouped is a PodGroup g of a UID.
func regrouped(uid string, minimum int32) *volcanov1.PodGroup {
	pg := podGroup("g", minimum)
	pg.UID = types.UID(uid)
	return pg
}

// TestPodGroupsMadeAnewInheritNothing: a PodGroup of the name of one that is gone is neither
// short since that was, nor content with what that needed, nor has it the room that was kept
// for that: whether a watch tells of both or a re-list of the new one alone, and whether or
// not anybody looked in between.
func TestPodGroupsMadeAnewInheritNothing(t *testing.T) {
	for _, told := range []string{"by a re-list", "by the watch", "by the watch, and seen without"} {
		w := newShortWorld()
		events := handler(on(w.c.SetGroup), on(func(g *volcanov1.PodGroup) { w.c.DeleteGroup(g.Namespace, g.Name, string(g.UID)) }))
		replace := func(was, is *volcanov1.PodGroup) {
			if told == "by a re-list" {
				events.OnUpdate(was, is)
				return
			}
			events.OnDelete(was)
			if told != "by the watch" {
				w.c.Snapshot(w.now)
			}
			events.OnAdd(is, false)
		}
		one, two, three := regrouped("one", 2), regrouped("two", 2), regrouped("three", 3)
		events.OnAdd(one, true)
		w.member("a", "a", start)
		w.member("b", "b", time.Time{})
		w.want(t, told+": one is placed", true, 0)
		w.c.Nominate("podgroup/ns/g", "one", snapshot.Nomination{Since: 1, Until: w.now.Add(time.Hour).UnixNano(), Pods: []snapshot.NominatedPod{{UID: "b", Node: "n"}}})
		w.now = w.now.Add(10 * time.Minute)

		replace(one, two)
		w.want(t, told+": the PodGroup is made anew", true, 0)
		if g := w.c.Snapshot(w.now).Gang("podgroup/ns/g"); g.Nominated != nil || w.c.Wanted("podgroup/ns/g", 1, w.now) {
			t.Errorf("%s: room is kept for another: %+v", told, g.Nominated)
		}
		w.member("b", "b", w.now)
		w.member("c", "c", time.Time{})
		w.want(t, told+": both are placed", false, 0)

		replace(two, three)
		w.want(t, told+": one that needs three", true, 0)
	}
}

// TestPodGroupsThatComeBackAreMeasuredByWhatTheyTell: one that was out of sight is the same.
func TestPodGroupsThatComeBackAreMeasuredByWhatTheyTell(t *testing.T) {
	w := newShortWorld()
	pg := regrouped("one", 3)
	pg.Status.Conditions = []volcanov1.PodGroupCondition{
		{Type: volcanov1.PodGroupScheduled, Status: corev1.ConditionTrue, Message: (&snapshot.Whole{Min: 2}).Words()},
		{Type: snapshot.Stale, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(w.now.Add(-time.Minute))},
	}
	w.member("a", "a", start)
	w.member("b", "b", time.Time{})
	w.member("c", "c", time.Time{})
	for range 2 {
		w.c.SetGroup(pg)
		w.want(t, "one of the two that it had is placed", true, time.Minute)
		w.c.DeleteGroup("ns", "g", "one")
		w.want(t, "it is out of sight", false, 0)
	}
	w.c.SetGroup(pg)
	w.member("b", "b", start)
	w.want(t, "two are placed, as it had", false, 0)
}

// TestNoRoomIsKeptForWhatIsGone: a decision for a PodGroup that is gone by now is not taken
// for one of the next.
func TestNoRoomIsKeptForWhatIsGone(t *testing.T) {
	c := New()
	c.SetPod(pod("a", "g", "1"))
	c.SetPod(pod("alone", "", "1"))
	c.SetGroup(regrouped("one", 1))
	c.Snapshot(start)
	c.DeleteGroup("ns", "g", "one")
	c.Nominate("podgroup/ns/g", "one", snapshot.Nomination{Since: 1})
	c.Nominate("pod/ns/alone/uid-alone", "uid-alone", snapshot.Nomination{Since: 1})
	c.SetGroup(regrouped("two", 1))
	if g := gangOf(t, c, "podgroup/ns/g"); g.Nominated != nil {
		t.Errorf("it has %+v", g.Nominated)
	}
	if g := gangOf(t, c, "pod/ns/alone/uid-alone"); g.Nominated == nil {
		t.Error("a pod that is a gang of its own has no room")
	}
}

// TestPodGroupsMadeAnewAreNotHeld: one that is made anew is neither held for what befell the
// one before, nor out of sight for it, nor as old.
func TestPodGroupsMadeAnewAreNotHeld(t *testing.T) {
	const key = "podgroup/ns/g"
	for _, told := range []string{"by a re-list", "by the watch"} {
		c := New()
		c.SetPod(pod("a", "g", "1"))
		c.SetGroup(regrouped("one", 1))
		if g := c.Snapshot(start).Gang(key); g.GrewAt != start.UnixNano() {
			t.Fatalf("it grew at %d", g.GrewAt)
		}
		c.HoldAs(key, "ClaimsNotMet", "no volume", start.Add(time.Hour))
		now := start.Add(time.Minute)
		if g := c.Snapshot(now).Gang(key); g.Hold == "" || g.HoldCode == "" || g.GrewAt != start.UnixNano() {
			t.Fatalf("one is held by %q (%s), and grew at %d", g.Hold, g.HoldCode, g.GrewAt)
		}
		c.Quarantine(key, start.Add(time.Hour))
		if told == "by the watch" {
			c.DeleteGroup("ns", "g", "one")
		}
		c.SetGroup(regrouped("two", 1))
		if g := c.Snapshot(now).Gang(key); g == nil || g.Hold != "" || g.HoldCode != "" || g.GrewAt != now.UnixNano() {
			t.Errorf("%s: two is %+v", told, g)
		}
	}
}
