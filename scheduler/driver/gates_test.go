package driver_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// The gate of a pod is opened when its queue has room, and not before: the others
// stay out of sight, and come in turn.
func TestGatesOfQueues(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns+"-v", 4)
	q := &volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: ns + "-q"}, Spec: volcanov1.QueueSpec{Weight: 1, Capability: corev1.ResourceList{"cpu": kresource.MustParse("2")}},
		Status: volcanov1.QueueStatus{Allocated: corev1.ResourceList{}}}
	create(t, q)
	t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), q) })
	create(t, &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g"},
		Spec: volcanov1.PodGroupSpec{MinMember: 1, Queue: q.Name}, Status: volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue}})
	for i := range 3 {
		create(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("g-", i), Annotations: map[string]string{
				wellknown.PodGroupName: "g", "volcano.sh/task-spec": "w", "volcano.sh/task-index": fmt.Sprint(i), wellknown.QueueAllocationGate: "true"}},
			Spec: corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano, SchedulingGates: []corev1.PodSchedulingGate{{Name: wellknown.QueueAllocationGate}},
				Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("1")}}}}},
		})
	}
	startScheduler(t, &wire{})
	shows := func(want string) {
		t.Helper()
		controllertest.Eventually(t, 2*within, func(ctx context.Context) string {
			pods, err := podsOf(ctx, ns, "g")
			if err != nil {
				return err.Error()
			}
			got := ""
			for i := range pods {
				got += fmt.Sprintf("%s gates=%d bound=%t; ", pods[i].Name, len(pods[i].Spec.SchedulingGates), pods[i].Spec.NodeName != "")
			}
			if got != want {
				return got + "want " + want
			}
			return ""
		})
	}
	shows("g-0 gates=0 bound=true; g-1 gates=0 bound=true; g-2 gates=1 bound=false; ")
	if err := plane.Client.Delete(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g-0"}}, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	shows("g-1 gates=0 bound=true; g-2 gates=0 bound=true; ")
}
