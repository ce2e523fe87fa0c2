package provider

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// testKubeReservations: each cluster has its own entry in a Reservation, beside what
// the scheduler writes, and writes into no other version than it read.
func testKubeReservations(t *testing.T, client kubernetes.Interface) {
	const path = "/apis/hpc.isthmus.sh/v1alpha1/reservations"
	raw := client.CoreV1().RESTClient()
	body := `{"apiVersion":"hpc.isthmus.sh/v1alpha1","kind":"Reservation","metadata":{"name":"both"},
"spec":{"duration":"1h","nodes":{"names":["a","b"]},"owners":{"queues":["q"]}}}`
	if err := raw.Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	scheduler := `{"status":{"phase":"Active","conditions":[{"type":"Held","status":"True","reason":"Held","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	alps, jura := kubeReservations{client, "vnode-alps"}, kubeReservations{client, "vnode-jura"}
	read := func() hpcv1alpha1.Reservation {
		t.Helper()
		all, err := alps.List(t.Context())
		if err != nil || len(all) != 1 || all[0].Name != "both" || all[0].Spec.Duration == nil {
			t.Fatalf("listed are %+v, %v", all, err)
		}
		return all[0]
	}
	r := read()
	show := func(api ReservationAPI, entry *hpcv1alpha1.BatchReservation) {
		t.Helper()
		r = read()
		if err := api.Show(t.Context(), &r, entry); err != nil {
			t.Fatal(err)
		}
	}
	show(alps, &hpcv1alpha1.BatchReservation{Cluster: "alps", State: hpcv1alpha1.BatchReservationWaiting, Message: "busy"})
	show(jura, &hpcv1alpha1.BatchReservation{Cluster: "jura", State: hpcv1alpha1.BatchReservationMade, Name: "n", Hosts: 2})
	if err := raw.Patch("application/merge-patch+json").AbsPath(path, "both", "status").Body([]byte(scheduler)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	show(alps, &hpcv1alpha1.BatchReservation{Cluster: "alps", State: hpcv1alpha1.BatchReservationInForce, Name: "m", Hosts: 1})
	s := read().Status
	if len(s.Batch) != 2 || s.Batch[0].Cluster != "alps" || s.Batch[0].Message != "" || s.Batch[0].Hosts != 1 || s.Batch[1].State != hpcv1alpha1.BatchReservationMade || s.Phase != "Active" || len(s.Conditions) != 1 {
		t.Errorf("the status is %+v", s)
	}
	show(alps, nil)
	if s := read().Status; len(s.Batch) != 1 || s.Batch[0].Cluster != "jura" || s.Phase != "Active" {
		t.Errorf("the status is %+v", s)
	}
	// It is an earlier version now, as that of one whose name it took would be.
	if err := jura.Show(t.Context(), &r, nil); !apierrors.IsConflict(err) {
		t.Errorf("the status of another version: %v", err)
	}
	if s := read().Status; len(s.Batch) != 1 {
		t.Errorf("the status is %+v", s)
	}
	if err := raw.Delete().AbsPath(path, "both").Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
}
