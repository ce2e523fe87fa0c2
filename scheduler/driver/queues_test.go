package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// TestQueuesSayWhatIsWrong: a queue has one event for what is wrong with it, however many
// cycles find it so.
func TestQueuesSayWhatIsWrong(t *testing.T) {
	ns := plane.Namespace(t)
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: volcanov1.QueueSpec{Weight: 1, Parent: ns + "-above"}, Status: volcanov1.QueueStatus{Allocated: corev1.ResourceList{}}}
	if err := plane.Client.Create(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Client.Delete(context.Background(), q); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	told := func(ctx context.Context) (out []corev1.Event) {
		var events corev1.EventList
		if err := plane.Client.List(ctx, &events, client.InNamespace(metav1.NamespaceDefault)); err != nil {
			t.Error(err)
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Kind == "Queue" && e.InvolvedObject.UID == q.UID {
				out = append(out, e)
			}
		}
		return out
	}
	startScheduler(t, &wire{})
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		if len(told(ctx)) == 0 {
			return "there is no event on the queue"
		}
		return ""
	})
	quiet := time.Now().Add(time.Second) // some cycles more
	controllertest.Eventually(t, within, func(context.Context) string {
		if time.Now().Before(quiet) {
			return "watching"
		}
		return ""
	})
	got := told(t.Context())
	if len(got) != 1 || got[0].Count != 1 || got[0].Reason != "ParentNotFound" || got[0].Type != corev1.EventTypeWarning ||
		!strings.Contains(got[0].Message, fmt.Sprintf("its parent %q does not exist", q.Spec.Parent)) {
		t.Errorf("the events are %+v", got)
	}
}
