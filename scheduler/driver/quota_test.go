package driver_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestResourceQuotaKeepsAGangOut: a PodGroup that its namespace has no room for stays
// pending and says so; it is let in when the quota is raised, and not for one with scopes.
func TestResourceQuotaKeepsAGangOut(t *testing.T) {
	ns := plane.Namespace(t)
	c, warnings, err := config.Parse([]byte("actions: enqueue, allocate\ntiers: [{plugins: [{name: gang}, {name: resourcequota}, {name: proportion}]}]\n"))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	quota := func(name, cpu string, scopes ...corev1.ResourceQuotaScope) *corev1.ResourceQuota {
		q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ResourceQuotaSpec{
			Hard: corev1.ResourceList{"requests.cpu": kresource.MustParse(cpu)}, Scopes: scopes,
		}}
		create(t, q)
		return q
	}
	quota("terminating", "1m", corev1.ResourceQuotaScopeTerminating)
	q := quota("all", "1500m")
	startWith(t, &wire{}, c.Pipeline(), "")
	virtualNode(t, ns+"-v", 1)
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "g"},
		Spec:       volcanov1.PodGroupSpec{MinMember: 2, Queue: "default", MinResources: &corev1.ResourceList{"cpu": kresource.MustParse("2")}},
	})
	const words = `ResourceQuota "all" allows namespace`
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool {
		return s.Phase == volcanov1.PodGroupPending && len(s.Conditions) > 0 && s.Conditions[0].Reason == "NamespaceQuota" &&
			strings.Contains(s.Conditions[0].Message, words) && strings.Contains(s.Conditions[0].Message, "1500m requests.cpu")
	})
	q.Spec.Hard["requests.cpu"] = kresource.MustParse("2")
	if err := plane.Client.Update(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return s.Phase == volcanov1.PodGroupInqueue })
}
