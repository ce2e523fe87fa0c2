package binder

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/grants"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// The pause after a status of a PodGroup was refused doubles with each refusal, from
// firstRefused to mostRefused. It stays at firstRefused where a gang is kept out by that, or
// at what keeps the statuses that are refused refusedApart on average.
const (
	firstRefused = 10 * time.Second
	mostRefused  = 5 * time.Minute
	refusedApart = 50 * time.Millisecond
)

// refusal is the status of a PodGroup that the API server, or a policy of it, refused. Every
// cycle wants it again: it is tried when the pause is over, or when another one is wanted.
type refusal struct {
	want  snapshot.GroupStatus
	pause time.Duration
	until time.Time
}

// refused reports whether an answer says that what was written may not be, and will not be
// if it is written again. That an object is another one by now is none of these.
func refused(err error) bool {
	switch {
	case apierrors.IsForbidden(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return true
	case apierrors.IsInvalid(err):
		var s apierrors.APIStatus
		other := func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" }
		return !errors.As(err, &s) || s.Status().Details == nil || !slices.ContainsFunc(s.Status().Details.Causes, other)
	}
	return false
}

// rests reports whether a status waits until the pause after its refusal is over, and has it
// written as it is wanted now then. The caller holds b.mu.
func (b *Binder) rests(s *plan.Status, now time.Time) bool {
	r, ok := b.refused[s.GangUID]
	if !ok || !now.Before(r.until) || !r.covers(s) {
		return false
	}
	b.wishes[s.GangUID] = wish{group: s}
	return true
}

// early reports whether a status that is to be written now was refused a short while ago, and
// has it wait for the rest of the pause.
func (b *Binder) early(uid string, w wish) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.refused[uid]
	left := r.until.Sub(b.Now())
	if !ok || w.group == nil || left <= 0 || !r.covers(w.group) {
		return false
	}
	if _, newer := b.wishes[uid]; !newer {
		b.wishes[uid] = w
	}
	b.writes.AddAfter(uid, left)
	return true
}

// covers reports whether a status waits for the end of the pause as well: it differs from the
// one that was refused in words only, or is of Kubernetes' own API, where it lets nobody in.
func (r refusal) covers(s *plan.Status) bool {
	a, b := r.want, s.Want
	return s.Native || a.Phase == b.Phase && a.Running == b.Running && a.Succeeded == b.Succeeded && a.Failed == b.Failed &&
		slices.EqualFunc(a.Conditions, b.Conditions, func(x, y snapshot.Condition) bool {
			return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason
		})
}

// forgetRefused forgets statuses that were refused and that nobody wants any more, and in
// time that they were. The caller holds b.mu.
func (b *Binder) forgetRefused(p plan.Plan, now time.Time) {
	if len(b.refused) == 0 {
		return
	}
	wanted := make(map[string]bool, len(p.Statuses))
	for i := range p.Statuses {
		wanted[p.Statuses[i].GangUID] = true
	}
	for uid, r := range b.refused {
		if wanted[uid] {
			continue
		}
		delete(b.wishes, uid)
		if now.Sub(r.until) > mostRefused {
			delete(b.refused, uid)
		}
	}
}

// keepsOut reports whether a gang waits for its status to be written: one that is not let in
// yet, as all see it, goes no further before that.
func (b *Binder) keepsOut(s *plan.Status) bool {
	shown, ok := b.Cache.Status(s.Gang)
	return ok && !s.Native && shown.Phase != s.Want.Phase && (shown.Phase == "" || shown.Phase == snapshot.GroupPending)
}

// refuse notes that the status of a PodGroup was refused. What was wanted is written again
// when the pause is over, should there be no cycle then.
func (b *Binder) refuse(ctx context.Context, s *plan.Status, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, again := b.refused[s.GangUID]
	most := mostRefused
	if b.keepsOut(s) {
		most = min(max(firstRefused, time.Duration(len(b.refused))*refusedApart), mostRefused)
	}
	if r.want, r.pause = s.Want, min(2*r.pause, most); !again {
		r.pause = firstRefused
	}
	r.until = b.Now().Add(r.pause)
	b.refused[s.GangUID] = r
	if _, newer := b.wishes[s.GangUID]; !newer {
		b.wishes[s.GangUID] = wish{group: s}
	}
	b.writes.AddAfter(s.GangUID, r.pause)
	log := logr.FromContextOrDiscard(ctx)
	if again || grants.Lacks(err) { // that is told once, for all of that kind
		log = log.V(1)
	}
	log.Info("the status of a PodGroup was refused; it is written again after pauses that grow, and when it changes",
		"podgroup", s.Namespace+"/"+s.Name, "pause", r.pause.String(), "reason", err.Error())
}
