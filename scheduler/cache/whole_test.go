package cache_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestRaisedMinimumsAreNoLoss: a gang is short when it lost members, not when it is to
// have more; one that is started anew is measured by what it needs then.
func TestRaisedMinimumsAreNoLoss(t *testing.T) {
	c, now, version := cache.New(), time.Unix(1000, 0), 0
	group := func(minimum, worker int32) {
		version++
		c.SetGroup(&volcanov1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", ResourceVersion: string(rune('0' + version))},
			Spec:       volcanov1.PodGroupSpec{MinMember: minimum, MinTaskMember: map[string]int32{"worker": worker}},
		})
	}
	pod := func(name, node string) {
		c.SetPod(&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.PodGroupName: "g", batchv1.TaskSpecKey: "worker"}},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerIsthmus, NodeName: node},
		})
	}
	for _, step := range []struct {
		what string
		do   func()
		want bool
	}{
		{"half of it is placed", func() { group(2, 2); pod("a", "n"); pod("b", "") }, true},
		{"all of it is", func() { pod("b", "n") }, false},
		{"more are wanted", func() { pod("c", ""); group(3, 3) }, false},
		{"one of the first is lost", func() { c.DeletePod("b"); pod("d", "") }, true},
		{"another is in its place", func() { pod("d", "n") }, false},
		{"the last one comes too", func() { pod("c", "n") }, false},
		{"one is lost again", func() { c.DeletePod("a") }, true},
		{"nothing is left", func() { c.DeletePod("c"); c.DeletePod("d") }, false},
		{"less than it needs now is placed anew", func() { pod("e", "n"); pod("f", "n") }, true},
	} {
		step.do()
		now = now.Add(time.Second)
		if g := c.Snapshot(now).Gang("podgroup/ns/g"); g.ShortSince != 0 != step.want {
			t.Errorf("%s: short: %t", step.what, !step.want)
		}
	}
}

// TestWholeOutlivesAScheduler: a scheduler that starts anew takes from the PodGroup what the
// gang had before its minimum was raised, once: what is placed anew is measured by what it
// needs then.
func TestWholeOutlivesAScheduler(t *testing.T) {
	for _, native := range []bool{false, true} {
		c, now := cache.New(), time.Unix(1000, 0)
		meta := metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", ResourceVersion: "1"}
		told, key, name := (&snapshot.Whole{Min: 2}).Words(), "podgroup/ns/g", "g"
		if native {
			key = "native/ns/g"
			c.SetNativeGroup(&schedulingv1beta1.PodGroup{
				ObjectMeta: meta, Spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 3}}},
				Status: schedulingv1beta1.PodGroupStatus{Conditions: []metav1.Condition{{Type: schedulingv1beta1.PodGroupInitiallyScheduled, Status: metav1.ConditionTrue, Message: told}}},
			})
		} else {
			c.SetGroup(&volcanov1.PodGroup{ObjectMeta: meta, Spec: volcanov1.PodGroupSpec{MinMember: 3}, Status: volcanov1.PodGroupStatus{
				Conditions: []volcanov1.PodGroupCondition{{Type: volcanov1.PodGroupScheduled, Status: corev1.ConditionTrue, Message: told}},
			}})
		}
		pod := func(uid, node string) {
			p := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid)},
				Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerIsthmus, NodeName: node},
			}
			if native {
				p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &name}
			} else {
				p.Annotations = map[string]string{wellknown.PodGroupName: name}
			}
			c.SetPod(p)
		}
		for _, step := range []struct {
			what string
			do   func()
			want bool
		}{
			{"the two that it had are there", func() { pod("a", "n"); pod("b", "n"); pod("c", "") }, false},
			{"one of them is lost", func() { c.DeletePod("b"); pod("d", "") }, true},
			{"nothing is left", func() { c.DeletePod("a") }, false},
			{"two of the three are placed anew", func() { pod("c", "n"); pod("d", "n"); pod("e", "") }, true},
		} {
			step.do()
			now = now.Add(time.Second)
			if g := c.Snapshot(now).Gang(key); g.ShortSince != 0 != step.want {
				t.Errorf("native %t, %s: short: %t", native, step.what, !step.want)
			}
		}
	}
}

// TestTasksThatGetAMinimumAreNoLoss: a task that is given a minimum while the gang runs has
// lost nobody before it had that, and has once it did, for the scheduler that saw it and for
// one that starts anew at any time.
func TestTasksThatGetAMinimumAreNoLoss(t *testing.T) {
	live, now := cache.New(), time.Unix(1000, 0)
	group := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g"}}
	pods := map[string]*corev1.Pod{}
	place := func(name, task, node string) {
		pods[name] = &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.PodGroupName: "g", batchv1.TaskSpecKey: task}},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerIsthmus, NodeName: node},
			Status:     corev1.PodStatus{Phase: corev1.PodRunning},
		}
		if node == "" {
			pods[name].Status.Phase = corev1.PodPending
		}
	}
	lose := func(name string) { delete(pods, name); live.DeletePod(name) }
	for i, step := range []struct {
		what string
		do   func()
		want bool
	}{
		{"it is placed", func() {
			group.Spec = volcanov1.PodGroupSpec{MinMember: 3, MinTaskMember: map[string]int32{"a": 2}}
			place("a1", "a", "n")
			place("a2", "a", "n")
			place("a3", "a", "n")
		}, false},
		{"another task gets a minimum", func() {
			group.Spec.MinTaskMember = map[string]int32{"a": 2, "b": 1}
			place("b1", "b", "")
		}, false},
		{"it has that", func() { place("b1", "b", "n") }, false},
		{"and loses it", func() { lose("b1"); place("b2", "b", "") }, true},
		{"it has it again", func() { place("b2", "b", "n") }, false},
		{"the first task loses two", func() { lose("a1"); lose("a2"); place("a4", "a", ""); place("a5", "a", "") }, true},
	} {
		step.do()
		now = now.Add(time.Second)
		group = group.DeepCopy()
		group.ResourceVersion = string(rune('1' + i))
		look := func(c *cache.Cache) *snapshot.Gang {
			c.SetGroup(group)
			for _, p := range pods {
				c.SetPod(p)
			}
			return c.Snapshot(now).Gang("podgroup/ns/g")
		}
		saw, told := look(live), look(cache.New())
		if saw.ShortSince != 0 != step.want || told.ShortSince != 0 != step.want {
			t.Errorf("%s: short: %t by who saw it and %t by who was told, want %t", step.what, saw.ShortSince != 0, told.ShortSince != 0, step.want)
		}
		group.Status.Conditions = []volcanov1.PodGroupCondition{{Type: volcanov1.PodGroupScheduled, Status: corev1.ConditionTrue, Message: saw.Whole.Words()}}
	}
}
