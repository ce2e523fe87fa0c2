package entitlement

import (
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Near leaves those of queues from the root down to one that count when it reclaims, or
// is reclaimed from: itself and as many above it as the options say.
func (l *Ledger) Near(down []*Queue) []*Queue {
	if l.options.Levels == nil {
		return down
	}
	return down[max(0, int64(len(down))-1-*l.options.Levels):]
}

// Entitled reports whether a queue would still hold no more than it deserves of
// what it asks for if it took need: it and every queue above it, of every resource that
// counts, and there has to be one. Only then may it take from others.
func (l *Ledger) Entitled(queue string, need resource.Vector) bool {
	some := false
	for _, q := range l.Near(l.Above(queue)) {
		for d, a := range need {
			if a <= 0 || !q.Counts(d) {
				continue
			}
			if resource.Add(q.Held[d], a) > q.Deserved[d] {
				return false
			}
			some = true
		}
	}
	return some
}

// Real is the most that a queue could hold beside what is guaranteed to others: its
// capability and those above it, without what the queues beside are guaranteed.
func (l *Ledger) Real(q *Queue) resource.Vector {
	out := q.Capability.Clone()
	for at := q; at.parent >= 0; at = l.queues[at.parent] {
		up := l.queues[at.parent]
		for d := range out {
			beside := resource.Sub(up.Capability[d], up.below.sum[d]-at.Guarantee[d])
			out[d] = max(min(out[d], beside), 0)
		}
	}
	return out
}
