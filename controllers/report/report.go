// Package report tells users what became of an object: in its status and by events.
package report

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Notice is an event for users.
type Notice struct {
	Warning         bool
	Reason, Message string
}

// Events tells notices as events of an object.
func Events(recorder events.EventRecorder, about client.Object, notices ...Notice) {
	for _, n := range notices {
		kind := corev1.EventTypeNormal
		if n.Warning {
			kind = corev1.EventTypeWarning
		}
		recorder.Eventf(about, nil, kind, n.Reason, "Reconcile", "%s", n.Message)
	}
}

// Status patches the status of an object to want if it is another, as the field owner of
// that name; of is where the status is in the object, which stays as it is. The patch
// carries the resource version that was read, so that a stale view never wins: then the
// error is a conflict. An object that is gone is success.
func Status[O client.Object, S any](ctx context.Context, c client.Client, field string, object O, of func(O) *S, want *S) error {
	if equality.Semantic.DeepEqual(of(object), want) {
		return nil
	}
	changed, _ := object.DeepCopyObject().(O)
	*of(changed) = *want
	patch := client.MergeFromWithOptions(object, client.MergeFromWithOptimisticLock{})
	if err := c.Status().Patch(ctx, changed, patch, client.FieldOwner(field)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("patch status of %s: %w", object.GetName(), err)
	}
	return nil
}
