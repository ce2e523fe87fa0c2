package driver_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// TestWaitingForClaimsIsShown: a gang whose place is found and whose volume is not made yet
// says that, and no longer what it waited for before; and takes it back once it is bound.
func TestWaitingForClaimsIsShown(t *testing.T) {
	names := claimNodes(t, "a")
	ns := names[0]
	startScheduler(t, &wire{})
	claimGang(t, ns, "g", 1, func(i int, p *corev1.Pod) { claimVolume(t, ns, "c", ns, i, p) })
	unschedulable := func(status corev1.ConditionStatus, reason string) {
		t.Helper()
		eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
			return slices.ContainsFunc(s.Conditions, func(c volcanov1.PodGroupCondition) bool {
				return c.Type == volcanov1.PodGroupUnschedulableType && c.Status == status && c.Reason == reason
			})
		})
	}
	unschedulable(corev1.ConditionTrue, volcanov1.NotEnoughResourcesReason) // its class is not there
	createClass(t, ns, ns+".example.com")
	unschedulable(corev1.ConditionTrue, "WaitingForClaims")
	eventuallySays(t, ns, "g", "its place on nodes is kept for it", "the volume of claim c-0 is not made yet")
	var c corev1.PersistentVolumeClaim
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "c-0"}, &c); err != nil {
		t.Fatal(err)
	}
	createVolume(t, ns+"-made", ns, names[1], func(v *corev1.PersistentVolume) {
		v.Annotations = map[string]string{"pv.kubernetes.io/provisioned-by": ns + ".example.com"}
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: ns, Name: c.Name, UID: c.UID}
	})
	eventuallyBound(t, ns, "g", 1)
	unschedulable(corev1.ConditionFalse, "GangReady")
}
