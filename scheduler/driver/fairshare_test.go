package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
)

// gangIn makes a gang of one pod in a queue.
func gangIn(t *testing.T, ns, name, queue string) {
	t.Helper()
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: queue},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	})
	member(t, ns, name, 0)
}

// TestWhatQueuesHeldIsKept: a queue that had the only host waits for one that had
// nothing, also when another scheduler decides, which knows it from what is written.
func TestWhatQueuesHeldIsKept(t *testing.T) {
	ns := plane.Namespace(t)
	c, _, err := config.Parse([]byte(`
actions: "enqueue, allocate"
tiers:
- plugins:
  - {name: gang}
  - {name: fairshare, arguments: {fairshare.halfLife: 24h}}
  - {name: proportion}
`))
	if err != nil {
		t.Fatal(err)
	}
	heavy, light := ns+"-a", ns+"-b" // by name alone the heavy one comes first
	for _, name := range []string{heavy, light} {
		create(t, &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: volcanov1.QueueSpec{Weight: 1}})
	}
	virtualNode(t, ns+"-v", 1)
	stop := startScheduler(t, &wire{})
	gangIn(t, ns, "first", heavy)
	setPhase(t, eventuallyBound(t, ns, "first", 1), corev1.PodRunning)
	stop()
	stop = startWith(t, &wire{}, c.Pipeline(), ns)
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		var m corev1.ConfigMap
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: memory.Name}, &m); err != nil {
			return err.Error()
		}
		if text := m.Data["usage.json"]; !strings.Contains(text, fmt.Sprintf(`"queue":%q,"namespace":%q`, heavy, ns)) {
			return "written is " + text
		}
		return ""
	})
	stop()
	gangIn(t, ns, "heavy", heavy)
	gangIn(t, ns, "light", light)
	finish(t, ns, "first")
	startWith(t, &wire{}, c.Pipeline(), ns)
	eventuallyBound(t, ns, "light", 1)
	if pods, err := podsOf(t.Context(), ns, "heavy"); err != nil || len(pods) != 1 || pods[0].Spec.NodeName != "" {
		t.Errorf("the queue that had the host has it again: %v, %v", pods, err)
	}
}
