package binder

import (
	"context"
	"errors"
	"net/http"
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

// The pause is shorter where the API server failed at a status, as when a webhook does not
// answer: from firstFailed to mostFailed. It may be over in a moment, and then all of them
// are written. That is told once the pause is failedLong.
const (
	firstFailed = time.Second
	failedLong  = 8 * firstFailed
	mostFailed  = time.Minute
)

// refusal is the status of a PodGroup that the API server, or a policy of it, refused, or
// failed to write. Every cycle wants it again: it is tried when the pause is over, or when another one is wanted.
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

// failed reports whether an answer says that the API server could not do what it was asked
// for, and does not ask for another try: an error of its own, or of what it asked.
func failed(err error) bool {
	var s apierrors.APIStatus
	return errors.As(err, &s) && s.Status().Code == http.StatusInternalServerError && !apierrors.IsServerTimeout(err)
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

// refuse notes that the status of a PodGroup was refused, or that it failed. What was wanted is written again
// when the pause is over, should there be no cycle then.
func (b *Binder) refuse(ctx context.Context, s *plan.Status, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, again := b.refused[s.GangUID]
	first, most, failed := firstRefused, mostRefused, failed(err)
	if failed {
		first, most = firstFailed, mostFailed
	}
	if b.keepsOut(s) {
		most = min(max(firstRefused, time.Duration(len(b.refused))*refusedApart), most)
	}
	if r.want, r.pause = s.Want, min(2*r.pause, most); !again {
		r.pause = first
	}
	r.until = b.Now().Add(r.pause)
	b.refused[s.GangUID] = r
	if _, newer := b.wishes[s.GangUID]; !newer {
		b.wishes[s.GangUID] = wish{group: s}
	}
	b.writes.AddAfter(s.GangUID, r.pause)
	log, what := logr.FromContextOrDiscard(ctx), "the status of a PodGroup was refused; it is written again after pauses that grow, and when it changes"
	told := again || grants.Lacks(err) // that is told once, for all of that kind
	if failed {
		told, what = r.pause != failedLong, "the API server fails to write the status of a PodGroup; it is tried again after pauses that grow, and when it changes"
	}
	if told {
		log = log.V(1)
	}
	log.Info(what, "podgroup", s.Namespace+"/"+s.Name, "pause", r.pause.String(), "reason", err.Error())
}
