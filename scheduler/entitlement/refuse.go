package entitlement

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Refusal is why a queue may not take more.
type Refusal struct {
	// Queue is the one whose limit stands against it: the gang's or one above.
	Queue    string
	Resource string
	// Need is what is asked for, Held what the queue holds and Limit the most it can.
	Need, Held, Limit int64
	// For names the queue for whose guarantee the rest is kept; "" when the limit
	// is the queue's capability.
	For string
}

// Words says the refusal in one sentence.
func (r *Refusal) Words() string {
	a := func(v int64) string { return plan.Amount(r.Resource, v) }
	if r.For != "" {
		return fmt.Sprintf("queue %q holds %s of %s and %s are left for it, the rest is guaranteed to %q; the gang needs %s",
			r.Queue, a(r.Held), r.Resource, a(max(resource.Sub(r.Limit, r.Held), 0)), r.For, a(r.Need))
	}
	return fmt.Sprintf("queue %q may hold %s %s and holds %s; the gang needs %s", r.Queue, a(r.Limit), r.Resource, a(r.Held), a(r.Need))
}

// Refuses returns why a queue may not take need as well, nil when it may: a
// capability of itself or above it would be passed, or what is guaranteed to
// others would be touched. Nobody is held to what he deserves here: what others
// do not use is not left idle.
func (l *Ledger) Refuses(queue string, need resource.Vector) *Refusal {
	i, ok := l.byName[queue]
	if !ok {
		return nil
	}
	for at := l.queues[i].home; at >= 0; at = l.queues[at].parent {
		q := l.queues[at]
		for d, a := range need {
			if a <= 0 {
				continue
			}
			after := resource.Add(q.Held[d], a)
			if after > q.Capability[d] && q.Binds(d) {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d], Limit: q.Capability[d]}
			}
			if q.parent < 0 || after <= q.Guarantee[d] {
				continue
			}
			// What is guaranteed to the siblings and not yet used stays free.
			up := l.queues[q.parent]
			left, kept := resource.Sub(up.Capability[d], up.Held[d]), up.below.idle[d]-q.unused(d)
			if kept > 0 && a <= left && a > resource.Sub(left, kept) {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d],
					Limit: resource.Add(q.Held[d], max(resource.Sub(left, kept), 0)), For: l.idlest(at, d).Name}
			}
			// What they use of it does not become free for others when it ends.
			guaranteed := up.below.sum[d] - q.Guarantee[d]
			if limit := max(resource.Sub(up.Capability[d], guaranteed), 0); guaranteed > 0 && after > limit {
				return &Refusal{Queue: q.Name, Resource: l.dims.Name(d), Need: a, Held: q.Held[d], Limit: limit, For: l.guaranteedMost(at, d).Name}
			}
		}
	}
	return nil
}
