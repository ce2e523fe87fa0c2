package cache

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestPriorityOfNativeGroup: the API server gives every PodGroup of its own kind a priority.
// Where the PodGroup names no class, that is the priority of pods without one, and what
// its pods have counts.
func TestPriorityOfNativeGroup(t *testing.T) {
	for name, c := range map[string]struct {
		class       string
		group, want int32
		pods        []int32
	}{
		"its class says":               {"named", 7, 7, []int32{0, 0}},
		"its class is gone":            {"lost", 9, 9, []int32{0, 1}},
		"without a class its pods do":  {"", 0, 1000, []int32{1000, 1000}},
		"also below":                   {"", 0, -5, []int32{-5, -5}},
		"the most urgent counts":       {"", 0, 10, []int32{10, -10}},
		"the default class is no word": {"default", 3, 1000, []int32{1000, 1000}},
		"of its pods nothing is known": {"default", 3, 3, nil},
		"nor of a class":               {"", 0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			k := New()
			k.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "named"}, Value: 7})
			k.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Value: 3, GlobalDefault: true})
			k.SetNativeGroup(&schedulingv1beta1.PodGroup{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "uid-g"},
				Spec:       schedulingv1beta1.PodGroupSpec{PriorityClassName: c.class, Priority: &c.group},
			})
			for i, priority := range c.pods {
				p := pod(string(rune('a'+i)), "", "1")
				p.Spec.SchedulingGroup, p.Spec.Priority = &corev1.PodSchedulingGroup{PodGroupName: ptr.To("g")}, &priority
				k.SetPod(p)
			}
			if g := gangOf(t, k, "native/ns/g"); g.Priority != c.want {
				t.Errorf("its priority is %d, want %d", g.Priority, c.want)
			}
		})
	}
}

// TestWordsOfNativeGroup: what a PodGroup of Kubernetes' own kind says of evictions and run
// times counts as that of a PodGroup of Volcano's kind does.
func TestWordsOfNativeGroup(t *testing.T) {
	c := New()
	p := pod("p", "", "1")
	p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: ptr.To("g")}
	c.SetPod(p)
	group := func(annotations map[string]string, spec schedulingv1beta1.PodGroupSpec) *schedulingv1beta1.PodGroup {
		return &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "uid-g", Annotations: annotations}, Spec: spec}
	}
	c.SetNativeGroup(group(nil, schedulingv1beta1.PodGroupSpec{}))
	if g := gangOf(t, c, "native/ns/g"); g.Patient || g.ActsOnEviction || g.Pods[0].Protected != "" || g.Estimate != 0 || g.Queue != "default" {
		t.Errorf("one that says nothing: %+v", g.GangSpec)
	}
	c.SetNativeGroup(group(map[string]string{"volcano.sh/preemptable": "false", "isthmus.sh/running-estimate": "2h", "scheduling.volcano.sh/queue-name": "q"}, schedulingv1beta1.PodGroupSpec{
		DisruptionMode: &schedulingv1beta1.DisruptionMode{All: &schedulingv1beta1.AllDisruptionMode{}}, PreemptionPolicy: ptr.To(schedulingv1beta1.PreemptNever),
	}))
	g := gangOf(t, c, "native/ns/g")
	if !strings.Contains(g.Pods[0].Protected, "PodGroup") {
		t.Errorf("its pod is protected by %q", g.Pods[0].Protected)
	}
	if !g.Patient {
		t.Error("it may have others sent away, and its preemptionPolicy is Never")
	}
	if !g.ActsOnEviction {
		t.Error("single pods of it may be sent away, and its disruptionMode is all")
	}
	if g.Estimate != int64(2*time.Hour) || g.Queue != "q" {
		t.Errorf("it runs for %d in queue %s", g.Estimate, g.Queue)
	}
}
