package cache_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// told says which kind of change the cache has told of, and takes it.
func told(c *cache.Cache) string {
	out := "nothing"
	select {
	case <-c.ChangedLittle():
		out = "little"
	default:
	}
	select {
	case <-c.Changed():
		out = "much"
	default:
	}
	return out
}

// TestLittleChanges goes through the life of a pod and its PodGroup: what a
// placement may depend on is told apart from what only statuses depend on.
func TestLittleChanges(t *testing.T) {
	c := cache.New()
	pod := func(f func(*corev1.Pod)) func() {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "p", Annotations: map[string]string{wellknown.PodGroupName: "g"}}, Spec: corev1.PodSpec{SchedulerName: "isthmus"}}
		f(p)
		return func() { c.SetPod(p) }
	}
	bound := func(p *corev1.Pod) {
		p.Spec.NodeName = "n"
		p.Annotations[wellknown.GangAttempt], p.Annotations[wellknown.GangSize], p.Annotations[wellknown.GangRank] = "a", "1", "0"
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	}
	group := func(version, phase string, running int32) func() {
		pg := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", ResourceVersion: version}, Spec: volcanov1.PodGroupSpec{MinMember: 1}}
		pg.Status.Phase, pg.Status.Running = volcanov1.PodGroupPhase(phase), running
		return func() { c.SetGroup(pg) }
	}
	written := func(version, phase string) func() {
		pg := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}}
		pg.Status.Phase = volcanov1.PodGroupPhase(phase)
		return func() { c.StatusWritten("podgroup/ns/g", "g", pg) }
	}
	c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n"}})
	compiled := func() *snapshot.Node { return c.Snapshot(time.Unix(10, 0)).Nodes[0] }
	// What a node holds is worked out anew after these alone.
	anew := map[string]bool{"it is assumed": true, "it runs": true, "it is done": true}
	for _, step := range []struct {
		what string
		do   func()
		want string
	}{
		{"a new PodGroup", group("1", "Pending", 0), "much"},
		{"it is let in", written("2", "Inqueue"), "much"},
		{"the watch shows that", group("2", "Inqueue", 0), "little"},
		{"a new pod", pod(func(*corev1.Pod) {}), "much"},
		{"its condition", pod(func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable"}}
		}), "little"},
		{"it is assumed", func() { c.Assume("p", cache.Assumption{Node: "n", Attempt: "a", Size: 1}) }, "nothing"},
		{"the watch shows the binding", pod(bound), "little"},
		{"it runs", pod(func(p *corev1.Pod) {
			bound(p)
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: time.Unix(5, 0)}
		}), "little"},
		{"a count of its PodGroup", group("3", "Inqueue", 1), "little"},
		{"somebody else's phase", group("4", "Pending", 1), "much"},
		{"another minimum", func() {
			pg := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "g", ResourceVersion: "5"}, Spec: volcanov1.PodGroupSpec{MinMember: 2}}
			pg.Status.Phase, pg.Status.Running = "Pending", 1
			c.SetGroup(pg)
		}, "much"},
		{"it is done", pod(func(p *corev1.Pod) { bound(p); p.Status.Phase = corev1.PodSucceeded }), "much"},
	} {
		told(c)
		before := compiled()
		step.do()
		if got := told(c); got != step.want {
			t.Errorf("%s: the cache tells of %s, want %s", step.what, got, step.want)
		}
		if got := compiled() != before; got != anew[step.what] {
			t.Errorf("%s: the node is compiled anew: %t", step.what, got)
		}
	}
	c.SetPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", UID: "q"}, Spec: corev1.PodSpec{SchedulerName: "isthmus"}})
	c.Assume("q", cache.Assumption{Node: "n"})
	told(c)
	c.SetPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "q", UID: "q"}, Spec: corev1.PodSpec{SchedulerName: "isthmus", NodeName: "m"}})
	if got := told(c); got != "much" {
		t.Errorf("bound elsewhere than assumed: the cache tells of %s", got)
	}
}
