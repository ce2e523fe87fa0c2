package binder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// A gang is bound only once all that its members claim is theirs: volumes are bound
// to their claims and devices are allocated. Until then its members are counted where
// they go, and nobody is bound. Should that fail, or take too long, all of them are
// given up together. Each step looks at what the API server shows and does what is
// left to do, so that it may be repeated at any time, by another instance as well;
// what is written carries the version that it is meant for.
//
// Volumes that were chosen stay with their claims, as with kube-scheduler: they are
// found there when the gang is placed anew. Devices go back.

// lastLook is the longest pause between two looks at what is waited for.
const lastLook = time.Second

// sayAfter is how long a gang waits for its claims before that is told.
const sayAfter = 3 * time.Second

// waitingForClaims is the reason of that, on events and conditions.
const waitingForClaims = "WaitingForClaims"

// preparation is a placement whose claims are being seen to.
type preparation struct {
	placement plan.Placement
	pods      []*bindTask
	since     time.Time
	told      bool
	// granted are the resource claims that were given devices for this.
	granted map[string]bool
	// asked are the volume claims for which a volume was asked for.
	asked map[string]bool
}

// errGivenUp is the end of a preparation: what was chosen cannot be had any more.
var errGivenUp = errors.New("")

// giveUp is an errGivenUp with words.
func giveUp(format string, args ...any) error {
	return fmt.Errorf("%w"+format, append([]any{errGivenUp}, args...)...)
}

// claiming reports whether some pod of a placement has claims to see to.
func claiming(p plan.Placement) bool {
	return slices.ContainsFunc(p.Binds, func(b plan.Bind) bool { return b.Claims != nil })
}

// prepare has the claims of pods that are counted already seen to, and then binds them.
func (b *Binder) prepare(p *preparation) {
	b.mu.Lock()
	b.prepared++
	id := b.prepared
	b.preparing[id] = p
	b.mu.Unlock()
	b.prepares.Add(id)
}

// step takes a preparation one step further and reports whether it is at its end.
func (b *Binder) step(ctx context.Context, id int64) bool {
	b.mu.Lock()
	p := b.preparing[id]
	b.mu.Unlock()
	if p == nil {
		return true
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	waits, err := b.see(call, p)
	now := b.Now()
	if err != nil && !errors.Is(err, errGivenUp) && !apierrors.IsConflict(err) {
		logr.FromContextOrDiscard(ctx).V(1).Info("claims of a gang are not written yet", "podGroup", p.placement.Gang, "reason", err.Error())
	}
	if waits == "" && err == nil {
		b.forgetPreparation(id)
		for _, t := range p.pods {
			b.binds.Add(t)
		}
		return true
	}
	if !errors.Is(err, errGivenUp) && now.Sub(p.since) >= b.claimsWithin() {
		if waits == "" {
			waits = err.Error()
		}
		err = giveUp("after %s %s", b.claimsWithin(), waits)
	}
	if errors.Is(err, errGivenUp) {
		b.forgetPreparation(id)
		b.abandon(call, p, err.Error())
		return true
	}
	if waits != "" && !p.told && now.Sub(p.since) >= sayAfter {
		p.told = true
		b.tell(p, corev1.EventTypeNormal, waitingForClaims, waits)
		b.noteClaims(p, waits)
	}
	return false
}

// noteClaims has the PodGroup of a gang that waits for its claims alone say that: it may
// have waited for something else before, or said nothing. No cycle looks at such a gang, so
// that it stands until the gang is bound or given up.
func (b *Binder) noteClaims(p *preparation, waits string) {
	pl := &p.placement
	want, ok := b.Cache.Status(pl.Gang)
	if !ok || !strings.HasPrefix(pl.Gang, "podgroup/") || want.Phase != snapshot.GroupInqueue {
		return // what has its minimum is not unschedulable
	}
	c := snapshot.Condition{
		Type: string(volcanov1.PodGroupUnschedulableType), Status: string(corev1.ConditionTrue), Reason: waitingForClaims,
		Message: plan.Bound(fmt.Sprintf("its place on %s is kept for it; %s", pl.Domain, waits)),
	}
	want.Conditions = slices.Clone(want.Conditions)
	if at, found := slices.BinarySearchFunc(want.Conditions, c.Type, func(x snapshot.Condition, t string) int { return strings.Compare(x.Type, t) }); found {
		want.Conditions[at] = c
	} else {
		want.Conditions = slices.Insert(want.Conditions, at, c)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wishes[pl.GangUID] = wish{group: &plan.Status{Gang: pl.Gang, GangUID: pl.GangUID, Namespace: pl.Namespace, Name: pl.Name, Want: want}}
	b.later.add(pl.GangUID, b.Now())
}

func (b *Binder) forgetPreparation(id int64) {
	b.mu.Lock()
	delete(b.preparing, id)
	b.mu.Unlock()
}

// tell tells an event of the gang, on its PodGroup and on its first pod: who made a pod
// need not know that it has a PodGroup.
func (b *Binder) tell(p *preparation, kind, reason, message string) {
	first := p.pods[0].bind
	refs := []*corev1.ObjectReference{{APIVersion: "v1", Kind: "Pod", Namespace: first.Namespace, Name: first.Name, UID: types.UID(first.UID)}}
	if strings.HasPrefix(p.placement.Gang, "podgroup/") {
		refs = append(refs, &corev1.ObjectReference{APIVersion: volcanov1.SchemeGroupVersion.String(), Kind: "PodGroup", Namespace: p.placement.Namespace, Name: p.placement.Name, UID: types.UID(p.placement.GangUID)})
	}
	for _, ref := range refs {
		b.Events.Event(ref, kind, reason, plan.Bound(message))
	}
}

// abandon gives all pods of a preparation up, and what devices they got.
func (b *Binder) abandon(ctx context.Context, p *preparation, why string) {
	why = "its claims could not be met: " + why
	b.Cache.HoldAs(p.placement.Gang, string(plan.ClaimsNotMet), plan.Bound(why), b.Now().Add(b.HoldFor))
	for _, t := range p.pods {
		b.Cache.Forget(t.bind.UID)
		b.Observe.Bound("refused", b.Now().Sub(t.since))
	}
	b.tell(p, corev1.EventTypeWarning, "ClaimsNotMet", why)
	for _, d := range p.devices() {
		if !p.granted[d.key()] {
			continue
		}
		// Should this fail, the next placement finds a claim that nobody uses and
		// takes it over.
		if err := b.giveBack(ctx, d); err != nil {
			logr.FromContextOrDiscard(ctx).V(1).Info("devices were not given back", "resourceClaim", d.key(), "reason", err.Error())
		}
	}
}

// see does what is left to do for the claims of a placement. It returns what has to be
// waited for, "" when nothing, and an errGivenUp when it is of no use to go on.
func (b *Binder) see(ctx context.Context, p *preparation) (waits string, err error) {
	for _, d := range p.devices() {
		if err := b.seeDevices(ctx, p, d); err != nil {
			return "", err
		}
	}
	seen := map[string]bool{}
	for _, t := range p.pods {
		if t.bind.Claims == nil {
			continue
		}
		for _, v := range t.bind.Claims.Volumes {
			k := v.Namespace + "/" + v.Claim
			if seen[k] {
				continue
			}
			seen[k] = true
			w, err := b.seeVolume(ctx, p, t.bind.Node, v)
			if err != nil {
				return "", err
			}
			if waits == "" {
				waits = w
			}
		}
	}
	return waits, nil
}

// seeVolume does what is left to do for one volume.
func (b *Binder) seeVolume(ctx context.Context, p *preparation, node string, v claims.VolumeChoice) (waits string, err error) {
	pvc := b.Cache.VolumeClaim(v.Namespace, v.Claim)
	switch {
	case pvc == nil || string(pvc.UID) != v.UID:
		return "", giveUp("the volume claim %s is gone", v.Claim)
	case claims.Bound(pvc):
		return b.seeBound(node, v, pvc)
	case v.Volume != "":
		return b.prebind(ctx, v, pvc)
	}
	switch at := pvc.Annotations[claims.SelectedNode]; at {
	case node:
		return fmt.Sprintf("the volume of claim %s is not made yet", v.Claim), nil
	case "":
		if p.asked[v.UID] {
			// A provisioner takes it away when it cannot make the volume there.
			return "", giveUp("the volume of claim %s could not be made for %s", v.Claim, node)
		}
		waits, err = b.selectNode(ctx, node, pvc)
		p.asked[v.UID] = err == nil
		return waits, err
	default:
		return "", giveUp("the volume of claim %s is made for node %s", v.Claim, at)
	}
}

// seeBound looks whether what a claim was bound to can be reached, by what the
// placement looked at: it would choose the same again.
func (b *Binder) seeBound(node string, v claims.VolumeChoice, pvc *corev1.PersistentVolumeClaim) (string, error) {
	pv := b.Cache.Volume(pvc.Spec.VolumeName)
	if pv == nil {
		return fmt.Sprintf("the volume %s of claim %s is not seen yet", pvc.Spec.VolumeName, pvc.Name), nil
	}
	if !claims.Reaches(pv, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node, Labels: b.Cache.NodeLabels(node)}}, v.AnyZone) {
		return "", giveUp("the volume %s that claim %s was bound to cannot be reached from %s", pv.Name, pvc.Name, node)
	}
	return "", nil
}

// prebind gives a volume to a claim; the volume controller makes it the claim's.
func (b *Binder) prebind(ctx context.Context, v claims.VolumeChoice, pvc *corev1.PersistentVolumeClaim) (string, error) {
	pv := b.Cache.Volume(v.Volume)
	if pv == nil {
		return "", giveUp("the volume %s for claim %s is gone", v.Volume, v.Claim)
	}
	waits := fmt.Sprintf("the claim %s is not bound to volume %s yet", v.Claim, v.Volume)
	annotations := map[string]any{}
	if ref := pv.Spec.ClaimRef; ref != nil {
		switch {
		case ref.Namespace != v.Namespace || ref.Name != v.Claim || ref.UID != "" && string(ref.UID) != v.UID:
			return "", giveUp("the volume %s for claim %s was given to another", v.Volume, v.Claim)
		case ref.UID != "":
			return waits, nil
		}
	} else {
		annotations[claims.BoundByController] = "yes"
	}
	body := map[string]any{
		"metadata": map[string]any{"uid": pv.UID, "resourceVersion": pv.ResourceVersion, "annotations": annotations},
		"spec": map[string]any{"claimRef": corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: v.Namespace, Name: v.Claim, UID: pvc.UID, ResourceVersion: pvc.ResourceVersion,
		}},
	}
	err := patch(body, func(data []byte) error {
		got, err := b.Client.CoreV1().PersistentVolumes().Patch(ctx, v.Volume, types.MergePatchType, data, metav1.PatchOptions{})
		if err == nil {
			b.Cache.SetVolume(got)
		}
		return err
	})
	return waits, refusedBy(err, "volume "+v.Volume)
}

// selectNode asks for a volume to be made for a node.
func (b *Binder) selectNode(ctx context.Context, node string, pvc *corev1.PersistentVolumeClaim) (string, error) {
	body := map[string]any{"metadata": map[string]any{
		"uid": pvc.UID, "resourceVersion": pvc.ResourceVersion, "annotations": map[string]any{claims.SelectedNode: node},
	}}
	err := patch(body, func(data []byte) error {
		got, err := b.Client.CoreV1().PersistentVolumeClaims(pvc.Namespace).Patch(ctx, pvc.Name, types.MergePatchType, data, metav1.PatchOptions{})
		if err == nil {
			b.Cache.SetVolumeClaim(got)
		}
		return err
	})
	return fmt.Sprintf("the volume of claim %s is not made yet", pvc.Name), refusedBy(err, "volume claim "+pvc.Name)
}

// patch encodes a body and sends it.
func patch(body map[string]any, send func([]byte) error) error {
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	return send(data)
}

// refusedBy makes an answer that no repetition changes the end of a preparation. A
// conflict is none: the watch shows what came between.
func refusedBy(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return giveUp("%s: %v", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// deviceTask is a resource claim and the pods of a placement that use it.
type deviceTask struct {
	claims.DeviceChoice
	users []resourcev1.ResourceClaimConsumerReference
}

func (d deviceTask) key() string { return d.Namespace + "/" + d.Claim }

// devices lists the resource claims of a placement, each with all pods that use it.
func (p *preparation) devices() []deviceTask {
	var out []deviceTask
	at := map[string]int{}
	for _, t := range p.pods {
		if t.bind.Claims == nil {
			continue
		}
		for _, c := range t.bind.Claims.Devices {
			d := deviceTask{DeviceChoice: c}
			i, ok := at[d.key()]
			if !ok {
				i = len(out)
				at[d.key()] = i
				out = append(out, d)
			}
			if c.Allocation != nil {
				out[i].Allocation = c.Allocation
			}
			out[i].users = append(out[i].users, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: t.bind.Name, UID: types.UID(t.bind.UID)})
		}
	}
	return out
}

// WaitForClaims says how long a gang whose place is found waits for its volumes from
// now on; 0 is as long as Config says. It may be called at any time.
func (b *Binder) WaitForClaims(d time.Duration) { b.within.Store(int64(d)) }

func (b *Binder) claimsWithin() time.Duration {
	if d := b.within.Load(); d > 0 {
		return time.Duration(d)
	}
	return b.ClaimsWithin
}
