package podgroup

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// refusing is an API server that lets no PodGroup in.
type refusing struct {
	client.Client
	err error
}

// Create refuses.
func (r refusing) Create(context.Context, client.Object, ...client.CreateOption) error { return r.err }

// A pod whose PodGroup is refused hears why, and the PodGroup is tried again; an API
// server in trouble is nothing that users hear of.
func TestRefusedPodGroupIsTold(t *testing.T) {
	t.Parallel()
	waits, runs := somePod("waits", 0, nil), somePod("runs", 0, nil)
	waits.Status.Phase, runs.Status.Phase = corev1.PodPending, corev1.PodRunning
	in := Input{Name: "podgroup-owner", Pods: []*corev1.Pod{waits, runs}}
	resource := schema.GroupResource{Group: "scheduling.volcano.sh", Resource: "podgroups"}
	for _, c := range []struct {
		err  error
		told int
	}{
		{apierrors.NewForbidden(resource, in.Name, errors.New(`spec.queue: Invalid value: "q": the queue is Closed`)), 1},
		{apierrors.NewInternalError(errors.New("no leader")), 0},
	} {
		recorder := events.NewFakeRecorder(5)
		r := &Reconciler{Client: refusing{err: c.err}, Events: recorder}
		if err := r.carryOut(t.Context(), in, Next(in)); !errors.Is(err, c.err) {
			t.Errorf("%v: got %v", c.err, err)
		}
		if len(recorder.Events) != c.told {
			t.Fatalf("%v: %d events, want %d", c.err, len(recorder.Events), c.told)
		}
		if c.told == 0 {
			continue
		}
		if e := <-recorder.Events; !strings.Contains(e, "Warning PodGroupRefused") || !strings.Contains(e, "the queue is Closed") {
			t.Errorf("event %q", e)
		}
	}
}
