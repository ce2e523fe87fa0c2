package driver_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// nativeGroups have the API server serve PodGroups of Kubernetes' own API.
var nativeGroups = []string{"feature-gates=GenericWorkload=true", "runtime-config=scheduling.k8s.io/v1beta1=true"}

// TestNativePodGroup: pods of a PodGroup of Kubernetes' own API are bound together,
// once there are as many as it says, and its condition tells so.
func TestNativePodGroup(t *testing.T) {
	ns := plane.Namespace(t)
	virtualNode(t, ns, 1)
	startScheduler(t, &wire{})
	name := "g"
	create(t, &schedulingv1beta1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{
			Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2},
		}},
	})
	add := func(pod string) {
		create(t, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: pod},
			Spec: corev1.PodSpec{
				SchedulerName: "isthmus", SchedulingGroup: &corev1.PodSchedulingGroup{PodGroupName: &name},
				Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("1")}}}},
			},
		})
	}
	// scheduled waits for the condition and returns how many pods are bound.
	scheduled := func(want metav1.ConditionStatus) (bound int) {
		controllertest.Eventually(t, within, func(ctx context.Context) string {
			var g schedulingv1beta1.PodGroup
			if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, &g); err != nil {
				return err.Error()
			}
			var pods corev1.PodList
			if err := plane.Client.List(ctx, &pods, client.InNamespace(ns)); err != nil {
				return err.Error()
			}
			bound = 0
			for _, p := range pods.Items {
				if p.Spec.NodeName != "" {
					bound++
				}
			}
			for _, c := range g.Status.Conditions {
				if c.Type == schedulingv1beta1.PodGroupInitiallyScheduled && c.Status == want {
					return ""
				}
			}
			return fmt.Sprintf("%d of %d pods are bound, the conditions are %+v", bound, len(pods.Items), g.Status.Conditions)
		})
		return bound
	}
	add("one")
	if bound := scheduled(metav1.ConditionFalse); bound != 0 {
		t.Errorf("%d pods are bound before the gang is there", bound)
	}
	add("two")
	if bound := scheduled(metav1.ConditionTrue); bound != 2 {
		t.Errorf("%d pods are bound, want both", bound)
	}
}
