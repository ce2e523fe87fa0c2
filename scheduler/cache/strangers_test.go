package cache

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestStrangersAreCounted: pods that name a PodGroup and another scheduler are none of the
// gang's, and it says how many they are, as long as they have not ended and are not deleted.
func TestStrangersAreCounted(t *testing.T) {
	c := New()
	of := func(name, group, scheduler string) *corev1.Pod {
		p := pod(name, group, "1")
		p.Spec.SchedulerName = scheduler
		return p
	}
	want := func(when string, want ...snapshot.Strangers) {
		t.Helper()
		if g := gangOf(t, c, "podgroup/ns/g"); len(g.Pods) != 1 || !slices.Equal(g.Strangers, want) {
			t.Errorf("%s: %d pods, strangers are %v, want %v", when, len(g.Pods), g.Strangers, want)
		}
	}
	c.SetPod(of("early", "g", "z"))
	c.SetPod(pod("a", "g", "1"))
	c.SetGroup(podGroup("g", 3))
	want("one came before the PodGroup", snapshot.Strangers{Scheduler: "z", Pods: 1})
	b := of("b", "g", corev1.DefaultSchedulerName)
	c.SetPod(b)
	c.SetPod(of("c", "g", corev1.DefaultSchedulerName))
	c.SetPod(of("d", "other", corev1.DefaultSchedulerName))
	c.SetPod(of("e", "", corev1.DefaultSchedulerName))
	want("two come", snapshot.Strangers{Scheduler: "default-scheduler", Pods: 2}, snapshot.Strangers{Scheduler: "z", Pods: 1})
	c.DeletePod("uid-c")
	b.Spec.NodeName = "n"
	c.SetPod(b)
	want("one is gone and one bound", snapshot.Strangers{Scheduler: "default-scheduler", Pods: 1}, snapshot.Strangers{Scheduler: "z", Pods: 1})
	early := of("early", "g", "z")
	early.DeletionTimestamp = ptr.To(metav1.NewTime(start))
	c.SetPod(early)
	want("one is being deleted", snapshot.Strangers{Scheduler: "default-scheduler", Pods: 1})
	b.Status.Phase = corev1.PodSucceeded
	c.SetPod(b)
	want("one has ended")
	c.DeletePod("uid-d")
	if s := c.strangers; len(s.of)+len(s.per) != 0 {
		t.Errorf("it keeps %v", s)
	}
}
