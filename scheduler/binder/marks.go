package binder

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// podWish is what a pod's condition should say of why it waits.
type podWish struct {
	ref             plan.PodRef
	reason, message string
	plain           bool
}

// noteMarks has pods that wait for capacity marked as unschedulable, which autoscalers add
// nodes for, and those marks turned that are no longer true: a gang that was told that it
// lacks nodes may have reached what its queue may hold since.
func (b *Binder) noteMarks(p plan.Plan, now time.Time) {
	for _, u := range p.Unschedulable {
		capacity := u.Code.CapacityKind()
		if !capacity && (u.Early || u.Code == plan.Held) {
			continue // over in a moment, or told in other words then
		}
		for _, ref := range u.Pods {
			reason, message := b.Cache.Displayed(ref.UID)
			if _, recent := b.written[ref.UID]; recent {
				continue
			}
			marked := reason == corev1.PodReasonUnschedulable
			w := wish{pod: &podWish{ref: ref, reason: corev1.PodReasonUnschedulable, message: u.Message, plain: u.Plain}}
			switch {
			case capacity && marked && (!u.Plain || message == u.Message):
				// as it should be: members of a gang point to the PodGroup for fresh numbers
			case capacity && !marked && (reason == "" || reason == corev1.PodReasonSchedulingGated):
				b.wishes[ref.UID] = w
				b.written[ref.UID] = now
				b.refreshes.wrote(ref.UID, now)
				b.later.add(ref.UID, now)
			case capacity:
				b.refreshes.ask(ref.UID, w)
			case reason != "" && reason != corev1.PodReasonSchedulingGated && reason != string(u.Code):
				w.pod.reason = string(u.Code)
				b.refreshes.ask(ref.UID, w)
			}
		}
	}
}

// placed says that a wish is of a pod that waits no longer: its mark stood behind bindings,
// its own among them, and what comes after a binding would say that it is none.
func (b *Binder) placed(w wish) bool {
	if w.pod == nil {
		return false
	}
	p, is := b.Cache.Pod(w.pod.ref.UID)
	return is && p.Node != ""
}

// writePod says in a pod's status why it waits.
func (b *Binder) writePod(ctx context.Context, w *podWish) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": w.ref.UID},
		"status": map[string]any{"conditions": []map[string]any{{
			"type": corev1.PodScheduled, "status": corev1.ConditionFalse,
			"reason": w.reason, "message": w.message, "lastTransitionTime": metav1.NewTime(b.Now()),
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	if _, err := b.Client.CoreV1().Pods(w.ref.Namespace).Patch(ctx, w.ref.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("patch pod %s/%s: %w", w.ref.Namespace, w.ref.Name, err)
	}
	if w.plain && w.reason == corev1.PodReasonUnschedulable { // what else it waits for is told with the reasons of gangs
		ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: w.ref.Namespace, Name: w.ref.Name, UID: types.UID(w.ref.UID)}
		b.Events.Event(ref, corev1.EventTypeWarning, "FailedScheduling", w.message)
	}
	return nil
}
