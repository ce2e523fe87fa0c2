package cache_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
)

// TestAnswersAreAboutTheBindingInDoubt: what the API server says of a binding that the watch
// did not show says nothing of a newer one of the same pod, or of a pod that is gone by now.
func TestAnswersAreAboutTheBindingInDoubt(t *testing.T) {
	now := time.Unix(1000, 0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{SchedulerName: "isthmus"}}
	for _, node := range []string{"n", "m"} {
		c := cache.New()
		c.SetPod(pod)
		c.Assume("u", cache.Assumption{Node: "n"})
		c.Confirm("u", now)
		c.Overdue(now.Add(time.Second))
		doubts := c.Doubted()
		if len(doubts) != 1 {
			t.Fatalf("doubted: %v", doubts)
		}
		c.Forget("u")
		c.Assume("u", cache.Assumption{Node: node}) // under way
		c.Dismiss(doubts[0])
		c.Trust(doubts[0], now)
		if p, _ := c.Pod("u"); p.Node != node || !p.Assumed {
			t.Errorf("the binding to %s that is under way counts at %q", node, p.Node)
		}
		if got := c.Overdue(now.Add(time.Hour)); len(got) > 0 {
			t.Errorf("the binding to %s that is under way is overdue", node)
		}
	}
	c := cache.New()
	c.SetPod(pod)
	c.DeletePod("u")
	c.Correct(pod)
	if _, ok := c.Pod("u"); ok {
		t.Error("a pod that is gone is there again")
	}
}
