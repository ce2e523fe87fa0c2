package binder

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// wish is the latest of what an object's status should say.
type wish struct {
	group  *plan.Status
	nodes  *plan.NodeCounts
	pod    *podWish
	booked *plan.Reservation
	gate   *plan.PodRef
	copies *plan.Staging
	idle   *resourcev1.ResourceClaim // whose devices are to be taken back
}

// note queues the status writes of a plan. A later wish for the same object
// replaces an earlier one that is not written yet.
func (b *Binder) note(p plan.Plan, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, at := range b.written {
		if now.Sub(at) > messageEvery {
			delete(b.written, uid)
		}
	}
	b.forgetRefused(p, now)
	for i := range p.Statuses {
		s := &p.Statuses[i]
		if b.rests(s, now) {
			continue
		}
		shown := b.Cache.Conditions(s.Gang)
		if sameButMessage(s, shown) && b.sameCounts(s) {
			_, recent := b.written[s.GangUID]
			if _, waits := b.wishes[s.GangUID]; waits {
				b.wishes[s.GangUID] = wish{group: s}
			} else if !recent {
				b.refreshes.ask(s.GangUID, wish{group: s})
			}
			continue
		}
		b.wishes[s.GangUID] = wish{group: s}
		if now, ok := b.Cache.Status(s.Gang); ok && s.Want.Phase == snapshot.GroupInqueue && now.Phase != s.Want.Phase {
			b.writes.Add(s.GangUID) // its pods are made when it is let in
		} else {
			b.later.add(s.GangUID, b.Now())
		}
	}
	for i := range p.HyperNodes {
		h := &p.HyperNodes[i]
		if _, recent := b.written[h.UID]; recent {
			continue
		}
		b.wishes[h.UID] = wish{nodes: h}
		b.written[h.UID] = now
		b.later.add(h.UID, now)
	}
	for i := range p.Reservations {
		r := &p.Reservations[i]
		if at, recent := b.written[r.UID]; recent && now.Sub(at) < time.Second {
			continue // the watch has yet to show what was written
		}
		b.wishes[r.UID] = wish{booked: r}
		b.written[r.UID] = now
		b.writes.Add(r.UID)
	}
	b.noteGates(p, now)
	b.noteCopies(p, now)
	b.tellWaiting(p, now)
	b.tellQueues(p, now)
	b.noteMarks(p, now)
	for _, r := range b.refreshes.granted(now) {
		b.wishes[r.uid] = r.wish
		if r.wish.pod != nil {
			b.written[r.uid] = now
		}
		b.later.add(r.uid, now)
	}
}

// sameButMessage reports whether conditions differ from the shown ones in words only.
func sameButMessage(s *plan.Status, shown []volcanov1.PodGroupCondition) bool {
	if len(s.Want.Conditions) != len(shown) {
		return false
	}
	for _, w := range s.Want.Conditions {
		if !slices.ContainsFunc(shown, func(c volcanov1.PodGroupCondition) bool {
			since := shortSince(s, w)
			return string(c.Type) == w.Type && string(c.Status) == w.Status && c.Reason == w.Reason && (since.IsZero() || since.Equal(&c.LastTransitionTime))
		}) {
			return false
		}
	}
	return true
}

// sameCounts reports whether everything but the conditions is shown already.
func (b *Binder) sameCounts(s *plan.Status) bool {
	shown, ok := b.Cache.Status(s.Gang)
	return ok && shown.Phase == s.Want.Phase && shown.Running == s.Want.Running && shown.Succeeded == s.Want.Succeeded && shown.Failed == s.Want.Failed
}

// write carries the latest wish for an object out and reports whether it is settled.
func (b *Binder) write(ctx context.Context, uid string) bool {
	b.mu.Lock()
	w, ok := b.wishes[uid]
	delete(b.wishes, uid)
	b.mu.Unlock()
	if !ok || b.early(uid, w) || b.placed(w) {
		return true
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	kind, err := "podgroup", error(nil)
	switch {
	case w.gate != nil:
		kind, err = "pod", b.openGate(call, w.gate)
	case w.copies != nil:
		err = b.askForCopies(call, w.copies)
	case w.idle != nil:
		kind, err = "resourceclaim", b.takeDevices(call, w.idle)
	case w.booked != nil:
		kind, err = "reservation", b.writeReservation(call, w.booked)
	case w.nodes != nil:
		kind, err = "hypernode", b.writeNodes(call, w.nodes)
	case w.group != nil && w.group.Native:
		err = b.writeNative(call, w.group)
	case w.group != nil:
		err = b.writeGroup(call, w.group)
	default:
		kind, err = "pod", b.writePod(call, w.pod)
	}
	switch {
	case err == nil:
		b.Observe.Wrote(kind, "written")
		if w.group != nil {
			b.mu.Lock()
			delete(b.refused, uid)
			b.mu.Unlock()
		}
	case w.group != nil && refused(err):
		b.Observe.Wrote(kind, "refused")
		b.refuse(ctx, w.group, err)
	case w.group != nil && failed(err):
		b.Observe.Wrote(kind, "retried")
		b.refuse(ctx, w.group, err)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsInvalid(err):
		// Gone, or another object by now; a status that is still wrong comes with the next plan.
		b.Observe.Wrote(kind, "gone")
	case apierrors.IsForbidden(err):
		// No role grants it, or it is not wanted; a later plan asks again.
		b.Observe.Wrote(kind, "denied")
		b.mu.Lock()
		b.written[uid] = b.Now()
		b.mu.Unlock()
		logr.FromContextOrDiscard(ctx).V(1).Info("status write was denied", "kind", kind, "uid", uid, "reason", err.Error())
	default:
		b.Observe.Wrote(kind, "retried")
		logr.FromContextOrDiscard(ctx).V(1).Info("status write failed", "kind", kind, "uid", uid, "reason", err.Error())
		b.mu.Lock()
		if _, newer := b.wishes[uid]; !newer {
			b.wishes[uid] = w
		}
		b.mu.Unlock()
		return false
	}
	return true
}

func (b *Binder) writeGroup(ctx context.Context, s *plan.Status) error {
	if shown, ok := b.Cache.Status(s.Gang); ok && shown.Equal(s.Want) {
		return nil // written while this wish was under way
	}
	shown := b.Cache.Conditions(s.Gang)
	conditions, news := b.conditions(s, shown)
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": s.GangUID},
		"status": map[string]any{
			"phase": s.Want.Phase, "running": s.Want.Running, "succeeded": s.Want.Succeeded, "failed": s.Want.Failed,
			"conditions": conditions,
		},
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	pg, err := b.Volcano.SchedulingV1beta1().PodGroups(s.Namespace).Patch(ctx, s.Name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("patch PodGroup %s/%s: %w", s.Namespace, s.Name, err)
	}
	b.Cache.StatusWritten(s.Gang, s.GangUID, pg)
	b.mu.Lock()
	b.written[s.GangUID] = b.Now()
	b.refreshes.wrote(s.GangUID, b.Now())
	b.mu.Unlock()
	for _, n := range news {
		ref := &corev1.ObjectReference{APIVersion: volcanov1.SchemeGroupVersion.String(), Kind: "PodGroup", Namespace: s.Namespace, Name: s.Name, UID: types.UID(s.GangUID)}
		b.Events.Event(ref, corev1.EventTypeWarning, string(n.Type), n.Reason+": "+n.Message)
	}
	return nil
}

// writeNative writes the condition of a PodGroup of Kubernetes' own API.
func (b *Binder) writeNative(ctx context.Context, s *plan.Status) error {
	shown := b.Cache.Conditions(s.Gang)
	conditions := make([]map[string]any, 0, len(s.Want.Conditions))
	for _, c := range s.Want.Conditions {
		since := metav1.NewTime(b.Now())
		if i := slices.IndexFunc(shown, func(o volcanov1.PodGroupCondition) bool {
			return string(o.Type) == c.Type && string(o.Status) == c.Status
		}); i >= 0 {
			since = shown[i].LastTransitionTime
		}
		conditions = append(conditions, map[string]any{"type": c.Type, "status": c.Status, "reason": c.Reason, "message": c.Message, "lastTransitionTime": since})
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": s.GangUID}, "status": map[string]any{"conditions": conditions}})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	pg, err := b.Client.SchedulingV1beta1().PodGroups(s.Namespace).Patch(ctx, s.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch PodGroup %s/%s: %w", s.Namespace, s.Name, err)
	}
	b.Cache.NativeStatusWritten(s.Gang, s.GangUID, pg)
	b.mu.Lock()
	b.written[s.GangUID] = b.Now()
	b.refreshes.wrote(s.GangUID, b.Now())
	b.mu.Unlock()
	return nil
}

// writeNodes writes how many nodes a HyperNode has.
func (b *Binder) writeNodes(ctx context.Context, h *plan.NodeCounts) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": h.UID}, "status": map[string]any{"nodeCount": h.Count}})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	if _, err := b.Volcano.TopologyV1alpha1().HyperNodes().Patch(ctx, h.HyperNode, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("patch HyperNode %s: %w", h.HyperNode, err)
	}
	if h.Problem != "" {
		ref := &corev1.ObjectReference{APIVersion: topologyv1.SchemeGroupVersion.String(), Kind: "HyperNode", Name: h.HyperNode, UID: types.UID(h.UID)}
		b.Events.Event(ref, corev1.EventTypeWarning, "InvalidMember", h.Problem)
	}
	return nil
}

// shortSince is since when a gang is short, if a condition says so, as the API tells it:
// in whole seconds.
func shortSince(s *plan.Status, c snapshot.Condition) metav1.Time {
	if s.ShortSince == 0 || c.Type != snapshot.Stale || corev1.ConditionStatus(c.Status) != corev1.ConditionTrue {
		return metav1.Time{}
	}
	return metav1.Unix(0, s.ShortSince).Rfc3339Copy()
}

// conditions gives wanted conditions their identity and time: those of the shown
// one unless status or reason changed, or a gang is short for another time. news are the
// bad ones that have just become true or got another reason.
func (b *Binder) conditions(wanted *plan.Status, shown []volcanov1.PodGroupCondition) (out, news []volcanov1.PodGroupCondition) {
	now := metav1.NewTime(b.Now())
	out = make([]volcanov1.PodGroupCondition, 0, len(wanted.Want.Conditions))
	for _, w := range wanted.Want.Conditions {
		c := volcanov1.PodGroupCondition{
			Type: volcanov1.PodGroupConditionType(w.Type), Status: corev1.ConditionStatus(w.Status),
			Reason: w.Reason, Message: w.Message, TransitionID: b.NewID(), LastTransitionTime: now,
		}
		since := shortSince(wanted, w)
		if !since.IsZero() {
			c.LastTransitionTime = since
		}
		turned := true
		if i := slices.IndexFunc(shown, func(s volcanov1.PodGroupCondition) bool { return s.Type == c.Type }); i >= 0 {
			s := shown[i]
			turned = s.Status != c.Status || s.Reason != c.Reason || !since.IsZero() && !since.Equal(&s.LastTransitionTime)
			if !turned {
				c.LastTransitionTime, c.TransitionID = s.LastTransitionTime, s.TransitionID
			}
		}
		out = append(out, c)
		bad := c.Type == volcanov1.PodGroupUnschedulableType || c.Type == snapshot.Stale
		if turned && bad && c.Status == corev1.ConditionTrue && c.Reason != waitingForClaims { // that is told by itself
			news = append(news, c)
		}
	}
	return out, news
}
