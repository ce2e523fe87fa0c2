package cache

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestImages: nodes and pods have their images while it matters, of a node those that
// some pod asks for, and a heartbeat with other images is none that a cycle acts on.
func TestImages(t *testing.T) {
	c := New()
	n := node("n", "8")
	n.Status.Images = []corev1.ContainerImage{{Names: []string{"r/app@sha256:1", "r/app:v1"}, SizeBytes: 5}, {Names: []string{"host:5000/base"}, SizeBytes: 7}, {Names: []string{"other:1"}, SizeBytes: 9}}
	c.SetNode(n)
	with := func(name, image string) *corev1.Pod {
		p := pod(name, "", "1")
		p.Spec.Containers[0].Image = image
		p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "host:5000/base"}}
		return p
	}
	c.SetPod(with("a", "r/app:v1"))
	c.SetPod(with("b", "r/app:v2"))
	classes := func(s *snapshot.Snapshot) []*snapshot.Class {
		var out []*snapshot.Class
		for _, g := range s.Gangs {
			out = append(out, g.Pods[0].Class)
		}
		return out
	}
	off := func() {
		t.Helper()
		s := c.Snapshot(start)
		if cs := classes(s); len(cs) != 2 || cs[0] != cs[1] || cs[0].Images != nil || s.Nodes[0].Images != nil {
			t.Errorf("images are part of %+v and %+v though nobody wants them", cs, s.Nodes[0].Images)
		}
	}
	off()
	c.WantImages(true)
	s := c.Snapshot(start)
	if got, want := s.Nodes[0].Images, []snapshot.Image{{Name: "host:5000/base:latest", Size: 7}, {Name: "r/app:v1", Size: 5}}; !reflect.DeepEqual(got, want) {
		t.Errorf("the node has %+v, want %+v", got, want)
	}
	if cs := classes(s); len(cs) != 2 || cs[0] == cs[1] || !reflect.DeepEqual(cs[0].Images, []string{"host:5000/base:latest", "r/app:v1"}) {
		t.Errorf("the pods ask for %+v", cs)
	}
	for len(c.Changed()) > 0 {
		<-c.Changed()
	}
	n = n.DeepCopy()
	n.Status.Images[2].SizeBytes = 10
	c.SetNode(n)
	if len(c.Changed()) > 0 {
		t.Error("an image that no pod asks for is a change")
	}
	n = n.DeepCopy()
	n.Status.Images[1].SizeBytes = 8
	c.SetNode(n)
	if len(c.Changed()) == 0 || c.Snapshot(start).Nodes[0].ImageSize("host:5000/base:latest") != 8 {
		t.Error("an image that pods ask for is no change")
	}
	c.SetPod(with("c", "other:1"))
	if c.Snapshot(start).Nodes[0].ImageSize("other:1") != 10 {
		t.Error("a new pod's image is not known of the node")
	}
	c.DeletePod("uid-c")
	if found := c.Audit(); len(found) > 0 {
		t.Errorf("audit: %v", found)
	}
	c.WantImages(false)
	off()
}
