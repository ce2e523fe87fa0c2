package binder

import (
	"cmp"
	"context"
	"errors"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// errAgain says that a step was taken and another has to follow.
var errAgain = errors.New("another step follows")

// seeDevices does what is left to do for one resource claim: it gets its devices and
// says which pods use them. Claims have no phases: what is written holds at once.
func (b *Binder) seeDevices(ctx context.Context, p *preparation, d deviceTask) error {
	c := b.Cache.ResourceClaim(d.Namespace, d.Claim)
	if c == nil || string(c.UID) != d.UID {
		return giveUp("the resource claim %s is gone", d.Claim)
	}
	has := c.Status.Allocation
	switch {
	case d.Allocation == nil && has == nil:
		return giveUp("the resource claim %s has lost its devices", d.Claim)
	case d.Allocation != nil && has != nil && !equality.Semantic.DeepEqual(has, d.Allocation):
		// It was decided on a claim that no pod uses; is it still one?
		if !b.unused(c, d) {
			return giveUp("the resource claim %s was given other devices", d.Claim)
		}
		// What it has cannot be replaced, but taken away and then given anew.
		return cmp.Or(b.writeDevices(ctx, c, nil, nil), errAgain)
	}
	users := union(c.Status.ReservedFor, d.users)
	if has != nil && len(users) == len(c.Status.ReservedFor) {
		return nil
	}
	if len(users) > resourcev1.ResourceClaimReservedForMaxSize {
		return giveUp("the resource claim %s cannot be used by more pods", d.Claim)
	}
	if has == nil && !slices.Contains(c.Finalizers, resourcev1.Finalizer) {
		// Without it the claim could go away while its devices are used.
		body := map[string]any{"metadata": map[string]any{
			"uid": c.UID, "resourceVersion": c.ResourceVersion, "finalizers": append(slices.Clone(c.Finalizers), resourcev1.Finalizer),
		}}
		if err := refusedBy(b.patchClaim(ctx, c, body), "resource claim "+d.Claim); err != nil {
			return err
		}
		c = b.Cache.ResourceClaim(d.Namespace, d.Claim)
		if c == nil || string(c.UID) != d.UID {
			return giveUp("the resource claim %s is gone", d.Claim)
		}
	}
	give := d.Allocation
	if give == nil {
		give = has
	}
	if has == nil {
		p.granted[d.key()] = true // also when the answer is lost
	}
	return b.writeDevices(ctx, c, give, users)
}

// unused reports whether nobody but pods of the placement itself is entered in a claim.
func (b *Binder) unused(c *resourcev1.ResourceClaim, d deviceTask) bool {
	return !slices.ContainsFunc(c.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		if hasUser(d.users, r.UID) {
			return false
		}
		pod, known := b.Cache.Pod(string(r.UID))
		return !known || pod.Node != "" && !pod.Assumed
	})
}

func hasUser(list []resourcev1.ResourceClaimConsumerReference, uid types.UID) bool {
	return slices.ContainsFunc(list, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == uid })
}

func union(have, more []resourcev1.ResourceClaimConsumerReference) []resourcev1.ResourceClaimConsumerReference {
	out := slices.Clone(have)
	for _, r := range more {
		if !hasUser(out, r.UID) {
			out = append(out, r)
		}
	}
	return out
}

// giveBack takes the pods of a placement out of a claim, and its devices from it
// where no other pod uses them.
func (b *Binder) giveBack(ctx context.Context, d deviceTask) error {
	c := b.Cache.ResourceClaim(d.Namespace, d.Claim)
	if c == nil || string(c.UID) != d.UID || c.Status.Allocation == nil {
		return nil
	}
	left := slices.DeleteFunc(slices.Clone(c.Status.ReservedFor), func(r resourcev1.ResourceClaimConsumerReference) bool { return hasUser(d.users, r.UID) })
	if len(left) > 0 {
		return b.writeDevices(ctx, c, c.Status.Allocation, left)
	}
	return b.writeDevices(ctx, c, nil, nil)
}

func (b *Binder) writeDevices(ctx context.Context, c *resourcev1.ResourceClaim, give *resourcev1.AllocationResult, users []resourcev1.ResourceClaimConsumerReference) error {
	status := map[string]any{"allocation": nil, "reservedFor": nil}
	if give != nil {
		status["allocation"] = give
	}
	if len(users) > 0 {
		status["reservedFor"] = users
	}
	return refusedBy(b.patchClaim(ctx, c, map[string]any{"metadata": map[string]any{"uid": c.UID, "resourceVersion": c.ResourceVersion}, "status": status}, "status"), "resource claim "+c.Name)
}

func (b *Binder) patchClaim(ctx context.Context, c *resourcev1.ResourceClaim, body map[string]any, sub ...string) error {
	return patch(body, func(data []byte) error {
		got, err := b.Client.ResourceV1().ResourceClaims(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, data, metav1.PatchOptions{}, sub...)
		if err == nil {
			b.Cache.SetResourceClaim(got)
		}
		return err
	})
}
