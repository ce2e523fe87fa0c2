package framework

import (
	"math"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// rest is what is free of one dimension on some real nodes, as of a point in the history
// of a transaction. As with ranked only nodes that have changed since are looked at again.
type rest struct {
	each []int64 // by node
	sum  int64
	seen int
	off  bool // amounts so large that they cannot be taken off a sum again
	// most is the largest of each, unless stale says that it has become less since.
	most  int64
	stale bool
}

// mostSum is the largest sum off which amounts can be taken again.
const mostSum = math.MaxInt64 / 2

// restOn is which dimension of which nodes a rest is of: those that a verdict admits, or
// all real ones where it is nil.
type restOn struct {
	of  *verdict
	dim int
}

func (s *Session) nodesOf(v *verdict) []int {
	if v == nil {
		return s.real
	}
	return v.real
}

// restOf is what is free of a dimension on all real nodes together.
func (s *Session) restOf(dim int) int64 { return s.restIn(s.following(), restOn{nil, dim}).sum }

func (s *Session) restIn(f *follow, on restOn) *rest {
	r := f.rest[on]
	if r == nil && f.heir() {
		s.before(f, func() {
			b := s.restIn(f.from, on)
			one := *b
			one.each = copyInto(&s.spent.rests, b.each)
			r = &one
			r.seen = 0
		})
		f.rest[on] = r
	}
	if r == nil && f == s.follow && on.of == nil {
		if r = s.recallRest(on); r != nil {
			f.rest[on] = r
		}
	}
	if r == nil || r.off && len(s.Txn.ChangedSince(r.seen)) > 0 {
		r = &rest{each: make([]int64, len(s.Snapshot.Nodes)), seen: s.Txn.Changes()}
		f.rest[on] = r
		for _, i := range s.nodesOf(on.of) {
			r.each[i] = max(s.Txn.FreeOf(i, on.dim), 0)
			r.sum, r.most = resource.Add(r.sum, r.each[i]), max(r.most, r.each[i])
		}
		r.off = r.sum > mostSum
		return r
	}
	for _, i := range s.Txn.ChangedSince(r.seen) {
		s.lookAgain(r, on, i)
	}
	r.seen = s.Txn.Changes()
	return r
}

// lookAgain counts what a node has free now.
func (s *Session) lookAgain(r *rest, on restOn, i int32) {
	if s.Snapshot.Nodes[i].Virtual || on.of != nil && on.of.why[i] != "" {
		return
	}
	was, free := r.each[i], max(s.Txn.FreeOf(int(i), on.dim), 0)
	r.sum, r.each[i] = resource.Add(resource.Sub(r.sum, was), free), free
	r.stale = r.stale || was == r.most && free < was
	r.most = max(r.most, free)
}

// largest is the most that one of the nodes has free.
func (s *Session) largest(r *rest, on restOn) int64 {
	if r.stale {
		r.most, r.stale = 0, false
		for _, i := range s.nodesOf(on.of) {
			r.most = max(r.most, r.each[i])
		}
	}
	return r.most
}

// noneHas reports whether it is known that none of the nodes that a verdict admits has as
// much of everything as a pod of the class asks for. It is known once somebody was told
// what is short there: else it would cost as much as to look for a place.
func (s *Session) noneHas(f *follow, c *snapshot.Class, v *verdict) bool {
	for dim, a := range c.Request {
		on := restOn{v, dim}
		if a > 0 && f.rest[on] != nil && s.largest(s.restIn(f, on), on) < a {
			return true
		}
	}
	return false
}
