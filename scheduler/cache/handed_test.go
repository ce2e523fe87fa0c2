package cache

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// TestNodesOfVolcanosPlugin tells once which node's GPUs cannot be read and why; a
// description of ours counts for more than what the plugin registers.
func TestNodesOfVolcanosPlugin(t *testing.T) {
	c := New()
	node := func(version string, annotations map[string]string) {
		c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: version, Annotations: annotations}})
	}
	const good = "GPU-a,10,1000,NVIDIA-T4,true,hami-core:"
	bad := strings.Replace(good, "1000", "lots", 1)
	for i, step := range []struct {
		annotations map[string]string
		told        string
	}{
		{map[string]string{volcanogpu.Register: good}, ""},
		{map[string]string{volcanogpu.Register: bad}, "memory"},
		{map[string]string{volcanogpu.Register: bad, "more": "x"}, ""},
		{map[string]string{volcanogpu.Register: good}, ""},
		{map[string]string{volcanogpu.Register: bad}, "memory"},
		{map[string]string{volcanogpu.Register: good, wellknown.GPUBox: "{}"}, "gpu box"},
	} {
		node(string(rune('1'+i)), step.annotations)
		why := c.NewlyBroken()["n"]
		if (why == "") != (step.told == "") || !strings.Contains(why, step.told) {
			t.Errorf("step %d: told %q, want %q", i, why, step.told)
		}
	}
}

// TestWhoHasAsked finds the container that asks, and the GPUs that a pod has.
func TestWhoHasAsked(t *testing.T) {
	asks := corev1.ResourceRequirements{Limits: corev1.ResourceList{"volcano.sh/vgpu-number": resource.MustParse("1")}}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{volcanogpu.IDs: "GPU-a,NVIDIA,10,0:", volcanogpu.Phase: volcanogpu.Allocating, volcanogpu.Node: "n", volcanogpu.ToAllocate: "GPU-a,NVIDIA,10,0:"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{}, {Resources: asks}}},
	}
	if e := newPodEntry(p, true); e.handed != (handed{container: 1}) || e.pod.Devices != nil || scattered(p) {
		t.Errorf("an unbound pod: %+v with %q", e.handed, e.pod.Devices)
	}
	p.Spec.NodeName = "n"
	e := newPodEntry(p, true)
	if want := (handed{container: 1, node: "n", allocating: true, due: true}); e.handed != want || !e.waits() || !reflect.DeepEqual(e.pod.Devices, []string{"GPU-a"}) {
		t.Errorf("a bound pod: %+v with %q", e.handed, e.pod.Devices)
	}
	p.Annotations[wellknown.GPUIDs] = "GPU-b"
	if e := newPodEntry(p, true); !reflect.DeepEqual(e.pod.Devices, []string{"GPU-b"}) {
		t.Errorf("what we chose counts for less than Volcano's: %q", e.pod.Devices)
	}
	p.Spec.InitContainers = []corev1.Container{{Resources: asks}}
	if !scattered(p) {
		t.Error("an init container that asks is not seen")
	}
}

// TestEndedPodsThatWereNotServedAreKnownByNode until they are gone.
func TestEndedPodsThatWereNotServedAreKnownByNode(t *testing.T) {
	c := New()
	for _, name := range []string{"a", "b", "served"} {
		p := bound(pod(name, "", "1"), "n-"+name, "", 0, 0)
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{wellknown.ResourceVGPUNumber: resource.MustParse("1")}
		p.Annotations[volcanogpu.Node] = "n-" + name
		if name != "served" {
			p.Annotations[volcanogpu.ToAllocate] = "GPU-0,NVIDIA,100,10:;"
		}
		c.SetPod(p)
		if got := c.Undue("n-" + name); len(got) != 0 {
			t.Errorf("%v of node n-%s while nothing has ended", got, name)
		}
		p = p.DeepCopy()
		p.Status.Phase = corev1.PodFailed
		c.SetPod(p)
	}
	told := func() string { return fmt.Sprint(c.Undue("n-a"), c.Undue("n-b"), c.Undue("n-served")) }
	if got := told(); got != "[{uid-a ns a}] [{uid-b ns b}] []" {
		t.Errorf("those that ended are %s", got)
	}
	c.DeletePod("uid-a")
	if got := told(); got != "[] [{uid-b ns b}] []" {
		t.Errorf("after one is gone they are %s", got)
	}
}
