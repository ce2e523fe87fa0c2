package cache

import (
	"fmt"
	"testing"

	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestPicks: pods that a plugin has to know of are told by their labels, and by the
// priority of a class, as soon as anybody wants to know.
func TestPicks(t *testing.T) {
	c := New()
	for i, labels := range []map[string]string{nil, {"a": "b"}, {"a": "b", "c": "d"}} {
		p := pod(fmt.Sprint("p", i), "", "1")
		p.Labels, p.Spec.Priority = labels, ptr.To(int32(i))
		c.SetPod(p)
	}
	c.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 2})
	for _, test := range []struct {
		picks *snapshot.Picks
		want  string
	}{
		{want: "[false false false]"},
		{picks: &snapshot.Picks{Labels: map[string]string{"a": "b"}}, want: "[false true true]"},
		{picks: &snapshot.Picks{Labels: map[string]string{"a": "b", "c": "e"}}, want: "[false false false]"},
		{picks: &snapshot.Picks{Below: "high"}, want: "[true true false]"},
		{picks: &snapshot.Picks{Labels: map[string]string{"a": "b"}, Below: "high"}, want: "[false true false]"},
		{picks: &snapshot.Picks{Below: "absent"}, want: "[false false false]"},
		{want: "[false false false]"},
	} {
		c.Pick(test.picks)
		var got []bool
		for _, g := range c.Snapshot(start).Gangs {
			got = append(got, g.Pods[0].Picked)
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("by %+v %v are picked, want %s", test.picks, got, test.want)
		}
	}
}

// TestImagesAreForgotten: however many pods come and go, not all of their images are
// remembered, and those of pods that are there always are.
func TestImagesAreForgotten(t *testing.T) {
	c := New()
	n := node("n", "8")
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"stays:1"}, SizeBytes: 5}, {Names: []string{"goes-7:1"}, SizeBytes: 6}}
	c.SetNode(n)
	c.WantImages(true)
	with := func(name, image string) {
		p := pod(name, "", "1")
		p.Spec.Containers[0].Image = image
		c.SetPod(p)
	}
	with("stays", "stays:1")
	most := 0
	for i := range 5 * leastAsked {
		with("goes", fmt.Sprintf("goes-%d:1", i))
		c.DeletePod("uid-goes")
		if i%100 == 0 {
			c.Snapshot(start)
		}
		most = max(most, len(c.asked))
	}
	s := c.Snapshot(start)
	if most > 2*leastAsked+200 {
		t.Errorf("%d images are remembered, want at most about %d", most, 2*leastAsked)
	}
	if got := s.Nodes[0].Images; len(got) != 1 || got[0].Name != "stays:1" {
		t.Errorf("the node has %+v, want the image that is asked for", got)
	}
}
