package driver_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

func reservations(t *testing.T) client.Client {
	t.Helper()
	types := runtime.NewScheme()
	if err := hpcv1alpha1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(plane.Config, client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// TestReservationsAreChecked: what is wrong is refused by the API server, with the
// field's name.
func TestReservationsAreChecked(t *testing.T) {
	api := reservations(t)
	at := func(h int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2030, 1, 1, h, 0, 0, 0, time.UTC)}
	}
	good := func() hpcv1alpha1.ReservationSpec {
		return hpcv1alpha1.ReservationSpec{
			Start: at(1), End: at(2), Nodes: &hpcv1alpha1.ReservedNodes{Names: []string{"n1"}},
			Owners: hpcv1alpha1.ReservationOwners{Queues: []string{"q"}},
		}
	}
	gpus := func(n string) *hpcv1alpha1.ReservedAmount {
		return &hpcv1alpha1.ReservedAmount{Each: map[corev1.ResourceName]kresource.Quantity{"nvidia.com/gpu": kresource.MustParse(n)}}
	}
	for why, change := range map[string]func(*hpcv1alpha1.ReservationSpec){
		"spec.nodes: Invalid value: exactly one of nodes and amount": func(s *hpcv1alpha1.ReservationSpec) { s.Amount = gpus("8") },
		"spec.end: Invalid value: exactly one of end and duration":   func(s *hpcv1alpha1.ReservationSpec) { s.End = nil },
		"spec.end: Invalid value: must be after start":               func(s *hpcv1alpha1.ReservationSpec) { s.Start = at(3) },
		"spec.duration": func(s *hpcv1alpha1.ReservationSpec) { s.End, s.Duration = nil, &metav1.Duration{} },
		"spec.nodes.names: Invalid value: exactly one of names and selector": func(s *hpcv1alpha1.ReservationSpec) { s.Nodes.Names = nil },
		"spec.owners.queues: Invalid value: at least one of queues and namespaces": func(s *hpcv1alpha1.ReservationSpec) {
			s.Owners.Queues = nil
		},
		"spec.amount.each: Invalid value: every amount must be more than nothing": func(s *hpcv1alpha1.ReservationSpec) {
			s.Nodes, s.Amount = nil, gpus("0")
		},
	} {
		r := &hpcv1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: good()}
		change(&r.Spec)
		if err := api.Create(t.Context(), r); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), `Invalid value: "object": `, "Invalid value: "), why) {
			t.Errorf("got %v, want %q", err, why)
		}
	}
	fine := &hpcv1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Name: "fine"}, Spec: good()}
	fine.Spec.Nodes, fine.Spec.Amount, fine.Spec.End, fine.Spec.Duration = nil, gpus("8"), nil, &metav1.Duration{Duration: 90 * time.Minute}
	if err := api.Create(t.Context(), fine); err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), fine); err != nil {
		t.Fatal(err)
	}
}

// TestReservedNodeIsForItsOwners keeps a node for one namespace: another's gang waits
// and is told why, the owner's comes in, and when the reservation is gone so does
// the other.
func TestReservedNodeIsForItsOwners(t *testing.T) {
	api := reservations(t)
	ns, owner := plane.Namespace(t), plane.Namespace(t)
	virtualNode(t, ns+"-v", 2)
	r := &hpcv1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: hpcv1alpha1.ReservationSpec{
		Duration: &metav1.Duration{Duration: time.Hour}, Nodes: &hpcv1alpha1.ReservedNodes{Names: []string{ns + "-v"}},
		Owners: hpcv1alpha1.ReservationOwners{Namespaces: []string{owner}},
	}}
	if err := api.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), r); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	startScheduler(t, &wire{})
	gang(t, ns, "g", 1, 1, volcanov1.PodGroupInqueue)
	gang(t, owner, "mine", 1, 1, volcanov1.PodGroupInqueue)
	for _, p := range eventuallyBound(t, owner, "mine", 1) {
		if by := p.Annotations[wellknown.ReservedBy]; by != ns {
			t.Errorf("pod %s was placed by reservation %q", p.Name, by)
		}
	}
	status := eventuallyGroup(t, ns, "g", func(s volcanov1.PodGroupStatus) bool { return len(s.Conditions) > 0 })
	if got := status.Conditions[0]; got.Reason != "Reserved" || !strings.Contains(got.Message, "but for reservation "+ns) {
		t.Errorf("the gang waits for %s: %s", got.Reason, got.Message)
	}
	eventuallyReserved := func(phase, reason string) {
		t.Helper()
		controllertest.Eventually(t, within, func(ctx context.Context) string {
			if err := api.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
				return err.Error()
			}
			c := meta.FindStatusCondition(r.Status.Conditions, "Held")
			if c == nil || c.Reason != reason || r.Status.Phase != phase {
				return fmt.Sprintf("want %s %s, the status is %+v", phase, reason, r.Status)
			}
			return ""
		})
	}
	eventuallyReserved("Active", "Held")
	if r.Status.Nodes != 1 || r.Status.End == nil || r.Status.End.Sub(r.Status.Start.Time) != time.Hour {
		t.Errorf("the status is %+v", r.Status)
	}
	// What a virtual kubelet writes stays beside what the scheduler does, and counts.
	batch := func(state, message string) {
		t.Helper()
		entry := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": hpcv1alpha1.GroupVersion.String(), "kind": "Reservation", "metadata": map[string]any{"name": ns},
			"status": map[string]any{"batch": []any{map[string]any{"cluster": "alps", "state": state, "message": message}}},
		}}
		if err := api.Status().Apply(t.Context(), client.ApplyConfigurationFromUnstructured(entry), client.ForceOwnership, client.FieldOwner("vnode-alps")); err != nil {
			t.Fatal(err)
		}
	}
	batch(hpcv1alpha1.BatchReservationRefused, "who has to act")
	eventuallyReserved("Active", "NotAtBatchSystem")
	if c := meta.FindStatusCondition(r.Status.Conditions, "Held"); c.Status != metav1.ConditionFalse || c.Message != "alps: who has to act" {
		t.Errorf("the condition is %+v", c)
	}
	batch(hpcv1alpha1.BatchReservationInForce, "")
	eventuallyReserved("Active", "Held")
	if len(r.Status.Batch) != 1 || r.Status.Batch[0].State != hpcv1alpha1.BatchReservationInForce {
		t.Errorf("the entry of the virtual kubelet is %+v", r.Status.Batch)
	}
	// Who reserves the same later is told, whatever the names, until the first is over.
	<-time.After(time.Until(r.CreationTimestamp.Add(time.Second))) // ages are told in whole seconds
	first, later := r, &hpcv1alpha1.Reservation{ObjectMeta: metav1.ObjectMeta{Name: "a-" + ns}, Spec: hpcv1alpha1.ReservationSpec{
		Duration: &metav1.Duration{Duration: time.Hour}, Nodes: &hpcv1alpha1.ReservedNodes{Names: []string{ns + "-v"}},
		Owners: hpcv1alpha1.ReservationOwners{Namespaces: []string{ns}},
	}}
	if err := api.Create(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), later); client.IgnoreNotFound(err) != nil {
			t.Error(err)
		}
	})
	r = later
	eventuallyReserved("Active", "Overlaps")
	if c := meta.FindStatusCondition(r.Status.Conditions, "Held"); !strings.Contains(c.Message, ns+"-v by "+ns+" until ") {
		t.Errorf("the later one says %q", c.Message)
	}
	r = first
	eventuallyReserved("Active", "Held")
	patch := client.MergeFrom(r.DeepCopy())
	r.Spec.Duration = &metav1.Duration{Duration: time.Millisecond}
	if err := api.Patch(t.Context(), r, patch); err != nil {
		t.Fatal(err)
	}
	eventuallyBound(t, ns, "g", 1)
	eventuallyReserved("Expired", "Over")
	r = later
	eventuallyReserved("Active", "InUse") // by whom the first let in
}
