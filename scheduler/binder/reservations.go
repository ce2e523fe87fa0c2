package binder

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// held is the type of a reservation's condition.
const held = "Held"

// writeReservation writes what a reservation's status should say.
func (b *Binder) writeReservation(ctx context.Context, r *plan.Reservation) error {
	if b.Dynamic == nil {
		return nil
	}
	now := metav1.NewTime(b.Now())
	cond := metav1.Condition{Type: held, Status: metav1.ConditionFalse, Reason: r.Want.Reason, Message: r.Want.Message, LastTransitionTime: now}
	if r.Want.Held {
		cond.Status = metav1.ConditionTrue
	}
	shown := b.Cache.ReservationConditions(r.Name)
	news := true
	if i := slices.IndexFunc(shown, func(c metav1.Condition) bool { return c.Type == held }); i >= 0 {
		news = shown[i].Reason != cond.Reason
		if shown[i].Status == cond.Status {
			cond.LastTransitionTime = shown[i].LastTransitionTime
		}
	}
	at := func(ns int64) metav1.Time { return metav1.NewTime(time.Unix(0, ns)) }
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": r.UID},
		"status": map[string]any{
			"phase": r.Want.Phase, "start": at(r.Want.Start), "end": at(r.Want.End),
			"nodes": r.Want.Nodes, "pieces": r.Want.Pieces, "conditions": []metav1.Condition{cond},
		},
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	resource := b.Dynamic.Resource(hpcv1alpha1.GroupVersion.WithResource("reservations"))
	if _, err := resource.Patch(ctx, r.Name, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("patch Reservation %s: %w", r.Name, err)
	}
	if news {
		ref := &corev1.ObjectReference{APIVersion: hpcv1alpha1.GroupVersion.String(), Kind: "Reservation", Name: r.Name, UID: types.UID(r.UID)}
		kind := corev1.EventTypeNormal
		if !r.Want.Held && r.Want.Reason != "NotBegun" && r.Want.Reason != "Over" {
			kind = corev1.EventTypeWarning
		}
		b.Events.Event(ref, kind, r.Want.Reason, r.Want.Message)
	}
	return nil
}
