package entitlement

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// guarantees is what a queue knows of what those right below it are guaranteed, so that
// nobody has to go through all of them for each gang. It is kept up with every Take.
type guarantees struct {
	// sum is what they are guaranteed together, and idle what they do not use of it.
	sum, idle resource.Vector
	// most are those that are guaranteed most, by resource, and idlest those that leave
	// most of it unused.
	most, idlest []pair
}

// pair is the first two of a queue's children in some order, as positions in the ledger,
// 0 where there is none: the root is nobody's child.
type pair struct {
	first, second int
	known         bool
}

// but is the first that is not one of them.
func (p pair) but(one int) int {
	if p.first == one {
		return p.second
	}
	return p.first
}

// unused is how much of its guarantee the queue does not use.
func (q *Queue) unused(dim int) int64 {
	return min(max(resource.Sub(q.Guarantee[dim], q.Held[dim]), 0), q.Guarantee[dim])
}

// countGuarantees begins to count, once it is known what everybody holds.
func (l *Ledger) countGuarantees() {
	n := l.dims.Len()
	for _, q := range l.queues {
		if len(q.children) == 0 {
			continue
		}
		b := &guarantees{make(resource.Vector, n), make(resource.Vector, n), make([]pair, n), make([]pair, n)}
		for _, c := range q.children {
			for d, a := range l.queues[c].Guarantee {
				b.sum[d] += a // no more in sum than the queue is guaranteed itself
				b.idle[d] += l.queues[c].unused(d)
			}
		}
		q.below = b
	}
}

// hold counts n times v more as held by a queue.
func (l *Ledger) hold(at int, v resource.Vector, n int64) {
	q := l.queues[at]
	if q.parent < 0 {
		q.Held.AddScaled(v, n)
		return
	}
	b := l.queues[q.parent].below
	for d, a := range v {
		if a == 0 || d >= len(q.Held) {
			continue
		}
		before := q.unused(d)
		q.Held[d] = resource.Add(q.Held[d], resource.Mul(a, n))
		after := q.unused(d)
		b.idle[d] += after - before
		if p := &b.idlest[d]; after > before || after < before && (p.first == at || p.second == at) {
			p.known = false
		}
	}
	l.noteOver(at)
}

// noteOver notes whether others may take something from a queue.
func (l *Ledger) noteOver(at int) {
	switch q := l.queues[at]; {
	case !q.Leaf() || q.Root():
	case q.Reclaimable() && q.Over():
		l.over[at] = true
	default:
		delete(l.over, at)
	}
}

// Overs are the names of the queues whose own gangs hold something that others may take,
// as far as these queues are concerned: more than is deserved.
func (l *Ledger) Overs() []string {
	out := make([]string, 0, len(l.over))
	for i := range l.over {
		out = append(out, l.queues[i].Name)
	}
	slices.Sort(out)
	return out
}

// two finds the children of a queue with the most of something, the first of equal ones;
// those with nothing are none of them.
func (l *Ledger) two(p *pair, children []int, of func(*Queue) int64) *pair {
	if p.known {
		return p
	}
	*p = pair{known: true}
	var most, next int64
	for _, c := range children {
		switch a := of(l.queues[c]); {
		case a > most:
			p.first, p.second, most, next = c, p.first, a, most
		case a > next:
			p.second, next = c, a
		}
	}
	return p
}

// idlest is the queue beside one that leaves most of its guarantee unused.
func (l *Ledger) idlest(at, dim int) *Queue {
	up := l.queues[l.queues[at].parent]
	return l.queues[l.two(&up.below.idlest[dim], up.children, func(q *Queue) int64 { return q.unused(dim) }).but(at)]
}

// guaranteedMost is the queue beside one that is guaranteed most.
func (l *Ledger) guaranteedMost(at, dim int) *Queue {
	up := l.queues[l.queues[at].parent]
	return l.queues[l.two(&up.below.most[dim], up.children, func(q *Queue) int64 { return q.Guarantee[dim] }).but(at)]
}

// Beside is what the queues right beside one are guaranteed together.
func (l *Ledger) Beside(q *Queue) resource.Vector {
	if q.parent < 0 {
		return make(resource.Vector, l.dims.Len())
	}
	out := l.queues[q.parent].below.sum.Clone()
	out.SubScaled(q.Guarantee, 1)
	return out
}
