package cache

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// nominee is a PodGroup with a nomination for a node, "" for none.
func nominee(name, uid, node string, since time.Time) *volcanov1.PodGroup {
	pg := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}}
	if node != "" {
		pg.Annotations = map[string]string{wellknown.Nomination: fmt.Sprintf(
			`{"domain":"nodes","pods":[{"uid":"p","node":%q}],"since":%d,"until":%d}`, node, since.UnixNano(), since.Add(10*time.Minute).UnixNano())}
	}
	return pg
}

// TestNominationsOfOthersEndWithTheHandover: a scheduler believes what it finds on PodGroups
// when it begins and for a moment after, and then nothing but what it has decided itself.
func TestNominationsOfOthersEndWithTheHandover(t *testing.T) {
	c := New()
	look := func(at time.Duration, gang, node string, inherited bool) {
		t.Helper()
		for _, g := range c.Snapshot(start.Add(at)).Gangs {
			if g.Key != "podgroup/ns/"+gang {
				continue
			}
			got := ""
			if g.Nominated != nil && len(g.Nominated.Pods) > 0 {
				got = g.Nominated.Pods[0].Node
			}
			if got != node || g.Inherited != inherited {
				t.Errorf("after %s %s has room on %q, inherited: %t, want %q and %t", at, gang, got, g.Inherited, node, inherited)
			}
		}
	}
	c.SetGroup(nominee("found", "u1", "n1", start))
	c.SetGroup(nominee("decided", "u2", "", start))
	c.Decides(start)
	look(0, "found", "n1", true)
	c.SetGroup(nominee("found", "u1", "n2", start.Add(time.Second)))
	look(2*time.Second, "found", "n2", true)
	c.Nominate("podgroup/ns/decided", "u2", snapshot.Nomination{Since: start.UnixNano(), Pods: []snapshot.NominatedPod{{UID: "p", Node: "n3"}}})
	c.SetGroup(nominee("decided", "u2", "n4", start.Add(time.Second)))
	look(3*time.Second, "decided", "n3", false)

	late := start.Add(2 * handover)
	look(2*handover, "found", "n2", true)
	c.SetGroup(nominee("found", "u1", "n5", late))
	c.SetGroup(nominee("new", "u3", "n5", late))
	look(2*handover, "found", "n2", true)
	look(2*handover, "new", "", false)
	c.SetGroup(nominee("found", "u1", "", late))
	look(2*handover, "found", "", false)
	c.SetGroup(nominee("found", "u1", "n2", late))
	look(2*handover, "found", "", false)
	c.SetGroup(nominee("decided", "u4", "n5", late))
	look(2*handover, "decided", "", false)
	if found := c.Audit(); len(found) > 0 {
		t.Error(found)
	}
}

// TestNominationsAreAllSeenByWhoLooksOn: what does not decide believes what schedulers write.
func TestNominationsAreAllSeenByWhoLooksOn(t *testing.T) {
	c := New()
	c.Snapshot(start)
	c.Snapshot(start.Add(time.Hour))
	c.SetGroup(nominee("g", "u", "n", start.Add(time.Hour)))
	if g := gangOf(t, c, "podgroup/ns/g"); g.Nominated == nil || !g.Inherited {
		t.Errorf("it has %+v", g.Nominated)
	}
}

// TestUsedRoomIsNotKeptAgain: a gang that came to its minimum with other members than room was
// made for has none kept when it loses these, until room is made for it anew. So it is with
// what a scheduler finds on its PodGroup when it begins.
func TestUsedRoomIsNotKeptAgain(t *testing.T) {
	c := New()
	c.SetGroup(nominee("g", "u", "n1", start))
	look := func(when string, used bool) {
		t.Helper()
		if g := gangOf(t, c, "podgroup/ns/g"); g.Nominated == nil || g.Nominated.Used != used {
			t.Errorf("%s it has %+v, want used: %t", when, g.Nominated, used)
		}
	}
	waits, other := pod("p", "g", "1"), pod("o", "g", "1")
	c.SetPod(waits)
	look("while its pod waits", false)
	c.SetPod(bound(other, "n2", "a", 1, 0))
	look("with another one bound", true)
	c.DeletePod(string(other.UID))
	look("without that one", true)
	n := snapshot.Nomination{Since: start.Add(time.Minute).UnixNano(), Pods: []snapshot.NominatedPod{{UID: "p", Node: "n3"}}}
	c.Nominate("podgroup/ns/g", "u", n)
	look("with room made anew", false)
}
