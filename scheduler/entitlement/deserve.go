package entitlement

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// available is what there is for the queues: everything without what pods of other
// schedulers hold, and without what is free on nodes where nobody can be placed now.
// What runs there counts: it is held. With it a queue would deserve what nobody can
// have, and another that holds all that works would have nothing beyond its part.
func available(s *snapshot.Snapshot) resource.Vector {
	out := s.Total.Clone()
	out.SubScaled(s.Used(), 1)
	out.SubScaled(s.Shut(), 1)
	for _, g := range s.Gangs {
		out.AddScaled(g.Held, 1)
	}
	for d := range out {
		out[d] = min(max(out[d], 0), s.Total[d])
	}
	return out
}

// counts are the resources that some queue declares to deserve, or to be guaranteed; nil
// is all, where what is deserved is no matter of what is declared.
func (l *Ledger) counts(s *snapshot.Snapshot) []bool {
	if l.options.Mode != Declared {
		return nil
	}
	out := make([]bool, s.Dims.Len())
	for _, q := range s.Queues {
		for _, a := range slices.Concat(q.Deserved, q.Guarantee) {
			if d, ok := s.Dims.Index(a.Name); ok && a.Amount > 0 {
				out[d] = true
			}
		}
	}
	return out
}

// share works out what everybody deserves, from the root down.
func (l *Ledger) share() {
	n := l.dims.Len()
	root := l.queues[0]
	next := l.vectors(2 * len(l.queues))
	for _, q := range l.queues {
		q.Deserved = next()
	}
	want := make([]resource.Vector, len(l.queues))
	for _, i := range slices.Backward(l.down) {
		want[i] = next()
		l.want(l.queues[i], want, want[i])
	}
	copy(root.Deserved, want[0])
	if l.options.Mode == Declared {
		copy(root.Deserved, root.Capability)
	}
	var basins []basin
	for _, i := range l.down {
		q := l.queues[i]
		if len(q.children) == 0 {
			continue
		}
		for d := range n {
			basins = basins[:0]
			var sum int64
			for _, c := range q.children {
				child := l.queues[c]
				b := basin{weight: child.Weight, low: child.Guarantee[d], high: want[c][d]}
				if l.options.Mode == Declared {
					b.weight = b.high - b.low
				}
				sum = resource.Add(sum, b.high)
				basins = append(basins, b)
			}
			if l.options.Mode == Declared && sum > q.Deserved[d] {
				l.fault(q, Fault{Reason: DeservedAboveParent, Message: fmt.Sprintf("the queues below %q deserve %s of %s in sum and there is %s for them: each gets its part of that",
					q.Name, plan.Amount(l.dims.Name(d), sum), l.dims.Name(d), plan.Amount(l.dims.Name(d), q.Deserved[d]))})
			}
			fill(q.Deserved[d], basins)
			for k, c := range q.children {
				l.queues[c].Deserved[d] = basins[k].got
			}
		}
	}
}

// want is the most that a queue is given: by weight, what it and those below hold
// and ask for; else what is declared. It is at least the guarantee and at most
// the capability. It is added to out, which is empty.
func (l *Ledger) want(q *Queue, below []resource.Vector, out resource.Vector) {
	switch {
	case l.options.Mode == ByWeight && q.Leaf():
		out.AddScaled(q.Held, 1)
		out.AddScaled(q.Wanted, 1)
	default:
		for _, c := range q.children {
			out.AddScaled(below[c], 1)
		}
	}
	if l.options.Mode == Declared && q.Spec != nil && !q.Own {
		for _, a := range q.Spec.Deserved {
			if d, ok := l.dims.Index(a.Name); ok {
				out[d] = a.Amount
			}
		}
	}
	for d := range out {
		out[d] = min(max(out[d], q.Guarantee[d]), q.Capability[d])
	}
}
