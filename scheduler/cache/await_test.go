package cache

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

func ownedPod(name, owner string) *corev1.Pod {
	p := pod(name, "", "1")
	p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(
		&metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "rs", UID: "owner"}}, corev1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	return p
}

// A pod without a PodGroup waits a while for one, and is then placed alone; with
// a PodGroup it is that gang's. Without Await nobody is waited for.
func TestAwait(t *testing.T) {
	holds := func(c *Cache, now time.Time) string {
		var out []string
		for _, g := range c.Snapshot(now).Gangs {
			out = append(out, g.Key+" "+g.Hold)
		}
		return strings.Join(out, "; ")
	}
	c := New()
	c.SetPod(pod("a", "", "1"))
	if got := holds(c, start); got != "pod/ns/a/uid-a " {
		t.Errorf("without waiting: %s", got)
	}
	c = New()
	c.Await(5 * time.Second)
	c.SetPod(pod("a", "", "1"))
	// In the order of time: what has been waited for once is over.
	for i, want := range []string{"pod/ns/a/uid-a waits for its PodGroup, which the controllers make", "pod/ns/a/uid-a "} {
		after := time.Duration(i) * 5 * time.Second
		if got := holds(c, start.Add(after)); got != want {
			t.Errorf("after %s: %s", after, got)
		}
	}
	c = New()
	c.Await(5 * time.Second)
	c.SetPod(ownedPod("a", "owner"))
	_ = holds(c, start)
	grouped := ownedPod("a", "owner")
	grouped.Annotations = map[string]string{wellknown.PodGroupName: "podgroup-owner"}
	c.SetPod(grouped)
	c.SetGroup(podGroup("podgroup-owner", 1))
	if got := holds(c, start); got != "podgroup/ns/podgroup-owner " {
		t.Errorf("with a PodGroup: %s", got)
	}
	// An old pod has waited already; one that is placed waits for nothing.
	c = New()
	c.Await(5 * time.Second)
	c.SetPod(bound(pod("b", "", "1"), "n1", "x", 1, 0))
	c.SetPod(pod("a", "", "1"))
	if got := holds(c, start.Add(time.Minute)); strings.Contains(got, "waits") {
		t.Errorf("an old pod: %s", got)
	}
}

// A pod that says how many go together never goes alone, and the PodGroup of an
// owner that asks for one pod is loose.
func TestGroupsOfOwners(t *testing.T) {
	c := New()
	p := ownedPod("a", "owner")
	p.Annotations = map[string]string{volcanov1.VolcanoGroupMinMemberAnnotationKey: "2"}
	c.SetPod(p)
	g := c.Snapshot(start).Gangs[0]
	if g.Key != "podgroup/ns/podgroup-owner" || !g.Absent {
		t.Errorf("gang %+v", g.GangSpec)
	}
	for min, want := range map[int32]bool{1: true, 2: false} {
		pg := podGroup("podgroup-owner", min)
		pg.OwnerReferences = p.OwnerReferences
		c.SetGroup(pg)
		if g := c.Snapshot(start).Gangs[0]; g.Loose != want || g.Absent {
			t.Errorf("minMember %d: %+v", min, g.GangSpec)
		}
	}
	user := podGroup("podgroup-owner", 1) // nobody's: as its author wants it
	c.SetGroup(user)
	if c.Snapshot(start).Gangs[0].Loose {
		t.Error("a PodGroup that no owner has is loose")
	}
}
