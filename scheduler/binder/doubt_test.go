package binder

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// TestBindingsThatTheWatchDoesNotShow count until the API server says what became of them,
// however far the watch is behind: else their room would be given away.
func TestBindingsThatTheWatchDoesNotShow(t *testing.T) {
	for name, c := range map[string]struct {
		there   func(p *corev1.Pod) // what the API server has; nil when it has none
		silent  bool                // it does not answer
		want    string              // the node that the pod counts at, and whether that is assumed
		overdue int                 // how many are, when that much time has passed again
	}{
		"bound as was told":   {there: func(p *corev1.Pod) { p.Spec.NodeName = "n" }, want: "n true", overdue: 1},
		"bound elsewhere":     {there: func(p *corev1.Pod) { p.Spec.NodeName = "other" }, want: "other false"},
		"not bound after all": {there: func(*corev1.Pod) {}, want: " false"},
		"gone":                {want: " false"},
		"another of the name": {there: func(p *corev1.Pod) { p.UID, p.Spec.NodeName = "u2", "n" }, want: " false"},
		"no answer":           {silent: true, want: "n true", overdue: 1},
	} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		}
		client := fake.NewClientset()
		if c.there != nil {
			there := pod.DeepCopy()
			c.there(there)
			client = fake.NewClientset(there)
		}
		if c.silent {
			client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no answer") })
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		b := New(Config{Cache: cache.New(), Client: client, Now: func() time.Time { return now }})
		b.Cache.SetPod(pod)
		b.Cache.Assume("u", cache.Assumption{Node: "n"})
		b.Cache.Confirm("u", now.Add(confirmWithin))
		late := func() int {
			now = now.Add(confirmWithin + time.Second)
			got := b.Cache.Overdue(now)
			b.Carry(plan.Plan{})
			if b.doubts.Len() != len(got) {
				t.Errorf("%s: the API server is asked about %d of %d", name, b.doubts.Len(), len(got))
			}
			return len(got)
		}
		if n := late(); n != 1 {
			t.Errorf("%s: %d are overdue", name, n)
		}
		if p, _ := b.Cache.Pod("u"); p.Node != "n" || !p.Assumed {
			t.Errorf("%s: before the API server is asked it counts at %q", name, p.Node)
		}
		d, _ := b.doubts.Get()
		b.doubt(context.Background(), d)
		b.doubts.Done(d)
		p, _ := b.Cache.Pod("u")
		if got := fmt.Sprint(p.Node, " ", p.Assumed); got != c.want {
			t.Errorf("%s: it counts at %q, want %q", name, got, c.want)
		}
		if n := late(); n != c.overdue {
			t.Errorf("%s: %d are overdue when as much time has passed again, want %d", name, n, c.overdue)
		}
		b.Close()
	}
}
