package binder

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

const (
	// evictWorkers is how many pods are told to go at a time.
	evictWorkers = 4
	// insist is how long a refused eviction is repeated: a disruption budget
	// frees again when another pod has become ready.
	insist = 20 * time.Second
	// spareFor is how long a pod that would not go is left alone.
	spareFor = 2 * time.Minute
	// maxAnnotation bounds a nomination that is written down. A larger one lives in
	// memory alone: after a restart the order of the queue decides again.
	maxAnnotation = 200 << 10
)

// claimTask is one version of a gang's claim; what it asks for is looked up.
type claimTask struct {
	gang  string
	since int64
}

// evictTask sends one pod away. For names the gang that it is done for, if any.
type evictTask struct {
	uid, namespace, name string
	message              string
	reason               string // of the event
	forGang              string
	forSince             int64
	since                time.Time
}

// makeRoom counts what a plan sends away and sets the workers to it.
func (b *Binder) makeRoom(p plan.Plan, now time.Time) {
	for _, c := range p.Claims {
		b.Cache.Nominate(c.Gang, c.GangUID, c.Nomination)
		for _, e := range c.Evictions {
			b.Cache.Evict(e.UID, now)
		}
		b.mu.Lock()
		b.claimed[taskOf(c)] = c
		b.mu.Unlock()
	}
	for _, c := range p.Claims { // all are known by then, so that each waits for those that it has to
		b.claims.Add(taskOf(c))
	}
	for _, e := range p.Releases {
		b.Cache.Evict(e.UID, now)
		b.evicts.Add(evictTask{uid: e.UID, namespace: e.Namespace, name: e.Name, message: e.Message, reason: "SentBack", since: now})
	}
}

func taskOf(c plan.Claim) claimTask { return claimTask{c.Gang, c.Nomination.Since} }

// claim writes down what room is kept for a gang and then sends away those in the
// way, in this order: a scheduler that starts in between knows what is meant. What has
// been left undone for too long is dropped: the room may be somebody else's by then.
func (b *Binder) claim(ctx context.Context, t claimTask) bool {
	b.mu.Lock()
	c, ok := b.claimed[t]
	b.mu.Unlock()
	if !ok {
		return true
	}
	if b.late(c) {
		b.Observe.Wrote("nomination", "late")
		b.dropClaims(c)
		return true
	}
	if b.open(c.For, t.since) {
		return false
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := b.writeNomination(call, c)
	gone := apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err)
	if err != nil && !gone {
		b.Observe.Wrote("nomination", "retried")
		logr.FromContextOrDiscard(ctx).V(1).Info("nomination was not written", "podGroup", c.Gang, "reason", err.Error())
		return false
	}
	if gone { // nobody is sent away for a gang that is no more
		b.Observe.Wrote("nomination", "gone")
		b.dropClaims(c)
		return true
	}
	b.mu.Lock()
	delete(b.claimed, t)
	b.mu.Unlock()
	b.Observe.Wrote("nomination", "written")
	now := b.Now()
	for _, e := range c.Evictions {
		b.evicts.Add(evictTask{
			uid: e.UID, namespace: e.Namespace, name: e.Name, message: e.Message, reason: "Preempted", forGang: c.Gang, forSince: t.since, since: now,
		})
	}
	return true
}

// late reports whether a claim is no longer to be carried out: the room is not wanted
// any more, or pods that are to make it count as staying again, and what is free was
// worked out with that.
func (b *Binder) late(c plan.Claim) bool {
	return !b.Cache.Wanted(c.Gang, c.Nomination.Since, b.Now()) ||
		slices.ContainsFunc(c.Evictions, func(e plan.Eviction) bool { return !b.Cache.Goes(e.UID) })
}

// open reports whether the claim of a gang is not written down yet: who is moved for
// it goes once its place is known to all.
func (b *Binder) open(gang string, since int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, open := b.claimed[claimTask{gang, since}]
	return open
}

// dropClaims gives a claim up, and with it those that were made for the sake of the same
// gang: one without the others makes no room.
func (b *Binder) dropClaims(c plan.Claim) {
	since, first := c.Nomination.Since, cmp.Or(c.For, c.Gang)
	var all []plan.Claim
	b.mu.Lock()
	for t, o := range b.claimed {
		if t.since == since && (o.Gang == first || o.For == first) {
			all = append(all, o)
			delete(b.claimed, t)
		}
	}
	b.mu.Unlock()
	b.Cache.Unnominate(first, since)
	for _, o := range all {
		b.Cache.Unnominate(o.Gang, since)
		for _, e := range o.Evictions {
			b.Cache.Stay(e.UID)
		}
	}
}

func (b *Binder) writeNomination(ctx context.Context, c plan.Claim) error {
	if c.Plain || c.Native { // there is no PodGroup that we may write this on: memory alone keeps it
		return nil
	}
	text, err := json.Marshal(c.Nomination)
	if err != nil {
		return fmt.Errorf("encode nomination: %w", err)
	}
	if len(text) > maxAnnotation {
		return nil
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": c.GangUID, "annotations": map[string]string{wellknown.Nomination: string(text)},
	}})
	if err != nil {
		return fmt.Errorf("encode nomination: %w", err)
	}
	if _, err := b.Volcano.SchedulingV1beta1().PodGroups(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("nominate PodGroup %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

// evict sends one pod away and reports whether that is settled.
func (b *Binder) evict(ctx context.Context, t evictTask) bool {
	if t.forGang != "" && !b.Cache.Wanted(t.forGang, t.forSince, b.Now()) {
		b.Cache.Stay(t.uid)
		return true
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID(t.uid))}}
	var err error
	if b.Delete {
		err = b.Client.CoreV1().Pods(t.namespace).Delete(call, t.name, options)
	} else {
		err = b.Client.PolicyV1().Evictions(t.namespace).Evict(call, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: t.namespace, Name: t.name}, DeleteOptions: &options,
		})
	}
	result, settled := b.settleEviction(call, t, err)
	b.Observe.Wrote("eviction", result)
	if !settled {
		b.Cache.Evict(t.uid, b.Now()) // whether it goes is unknown, however long that lasts
	}
	if result == "evicted" {
		ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: t.namespace, Name: t.name, UID: types.UID(t.uid)}
		b.Events.Event(ref, corev1.EventTypeNormal, t.reason, t.message)
	}
	if err != nil {
		logr.FromContextOrDiscard(ctx).V(1).Info("eviction was not accepted", "pod", t.namespace+"/"+t.name, "podUID", t.uid, "result", result, "reason", err.Error())
	}
	return settled
}

// settleEviction works out what an answer to an eviction means. The pod counts as
// going away until the watch shows it, unless it certainly does not go.
func (b *Binder) settleEviction(ctx context.Context, t evictTask, err error) (result string, settled bool) {
	switch {
	case err == nil:
		b.Cache.Evict(t.uid, b.Now())
		return "evicted", true
	case apierrors.IsNotFound(err):
		return "gone", true
	case apierrors.IsConflict(err):
		p, err := b.live(ctx, t.namespace, t.name)
		if apierrors.IsNotFound(err) || err == nil && (string(p.UID) != t.uid || p.DeletionTimestamp != nil) {
			return "gone", true
		}
		return "retried", false
	}
	final := apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
	// A budget answers 429, several budgets for one pod 500.
	if !final && (!apierrors.IsTooManyRequests(err) && !apierrors.IsInternalError(err) || b.Now().Sub(t.since) < insist) {
		return "retried", false
	}
	b.Cache.Spare(t.uid, fmt.Sprintf("its eviction was refused: %v", err), b.Now().Add(spareFor))
	if t.forGang != "" {
		b.Cache.Unnominate(t.forGang, t.forSince)
	}
	return "refused", true
}
