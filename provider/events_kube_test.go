package provider

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/provider/events"
)

// What two lives of a daemon tell of a pod is one event on the real API server,
// and what one of them tells again is counted there.
func testEventsOnce(t *testing.T, client kubernetes.Interface, namespace string) {
	pod := livePod(t, client, namespace, "told", "n")
	told := func() string {
		list, err := client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintf("%d events:", len(list.Items))
		for _, e := range list.Items {
			out += fmt.Sprintf(" %s x%d", e.Reason, e.Count)
		}
		return out
	}
	await := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
			saw := told()
			if saw == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s, want %s", saw, want)
			}
		}
	}
	for life := range 2 {
		broadcaster := record.NewBroadcaster(record.WithContext(t.Context()))
		broadcaster.StartRecordingToSink(events.Sink{EventSink: &typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")}})
		k := &kubePods{client: client, recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: events.Component})}
		k.Event(pod, corev1.EventTypeWarning, "NoAccount", "nobody")
		await([]string{"1 events: NoAccount x1", "1 events: NoAccount x2"}[life])
		if life == 0 {
			k.Event(pod, corev1.EventTypeWarning, "NoAccount", "nobody")
			await("1 events: NoAccount x2")
		} else { // what was written last is known to this life as well
			k.Event(pod, corev1.EventTypeWarning, "NoAccount", "nobody")
			await("1 events: NoAccount x3")
		}
		broadcaster.Shutdown()
	}
}
