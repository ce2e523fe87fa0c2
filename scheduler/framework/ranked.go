package framework

import (
	"math"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// roomLimit is more pods than any node takes.
const roomLimit = math.MaxInt32

// ranked is the real nodes that can take a pod of a class, in order, as of a point
// in the history of a transaction. Only nodes that have changed since are looked at
// again, so that a gang costs what it and the one before have touched.
type ranked struct {
	list, spare []candidate
	seen        int
	// again are nodes to be looked at again besides those that have changed since.
	again []int32
}

// follow is what was worked out over one transaction.
type follow struct {
	txn    *snapshot.Txn
	ranked map[judged]*ranked
	rest   map[restOn]*rest
	// from, when set, is of the transaction that this one was forked from when that had
	// had so many changes: what is known there holds here but for what changed since.
	from *follow
	at   int
}

// heir reports whether what is known of the transaction before still holds at the
// beginning of this one.
func (f *follow) heir() bool { return f.from != nil && f.from.txn.Changes() == f.at }

func newFollow(txn *snapshot.Txn) *follow {
	return &follow{txn: txn, ranked: map[judged]*ranked{}, rest: map[restOn]*rest{}}
}

// following is what was worked out over the present transaction: the cycle's own,
// or the last what-if.
func (s *Session) following() *follow {
	if s.follow.txn == s.Txn {
		return s.follow
	}
	if s.whatIf == nil || s.whatIf.txn != s.Txn {
		s.goOn(newFollow(s.Txn))
	}
	return s.whatIf
}

// goOn goes on with another what-if, which takes over the memory of the last one: nobody
// holds its lists any longer.
func (s *Session) goOn(f *follow) {
	if s.whatIf != nil {
		for _, r := range s.whatIf.ranked {
			s.spent.lists = append(s.spent.lists, r.list, r.spare)
		}
		for _, r := range s.whatIf.rest {
			s.spent.rests = append(s.spent.rests, r.each)
		}
	}
	s.whatIf = f
}

// spent is memory of what-ifs that are over. One that follows takes as much as it gives
// back, so there is never more than the largest one needed.
type spent struct {
	lists [][]candidate
	rests [][]int64
}

// copyInto copies a list into memory that is taken from spent, if there is any.
func copyInto[T any](spent *[][]T, list []T) []T {
	if n := len(*spent); n > 0 {
		to := (*spent)[n-1]
		*spent = (*spent)[:n-1]
		return append(to[:0], list...)
	}
	return slices.Clone(list)
}

// rankedNodes returns all real nodes that can take a pod of a class, the best
// first. The caller must not change the list; it is good until the next call.
func (s *Session) rankedNodes(c *snapshot.Class) []candidate { return s.rankedIn(s.following(), c) }

// before runs fn over the transaction that another was forked from.
func (s *Session) before(f *follow, fn func()) {
	was := s.Txn
	s.Txn = f.from.txn
	defer func() { s.Txn = was }()
	s.Txn.Overlook(s.scope.overlooked) // it was forked for a gang of perhaps another profile
	fn()
}

func (s *Session) rankedIn(f *follow, c *snapshot.Class) []candidate {
	v, dim := s.verdict(c), s.scarcest(c)
	key := judged{c, s.scope, s.bar}
	r := f.ranked[key]
	if r == nil && f.heir() {
		r = &ranked{}
		s.before(f, func() { r.list = copyInto(&s.spent.lists, s.rankedIn(f.from, c)) })
		r.spare = copyInto(&s.spent.lists, nil)
		f.ranked[key] = r
	}
	if r == nil && s.lasts(f, c) {
		s.madeRanked = append(s.madeRanked, key)
		if r = s.recallRanked(c); r != nil {
			f.ranked[key] = r
		}
	}
	if r == nil {
		r = &ranked{seen: s.Txn.Changes()}
		f.ranked[key] = r
		if s.noneHas(f, c, v) {
			return r.list
		}
		r.list = make([]candidate, 0, len(v.real))
		for _, i := range v.real {
			if cand, ok := s.candidate(i, c, dim, roomLimit, v.likes); ok {
				r.list = append(r.list, cand)
			}
		}
		slices.SortFunc(r.list, candidate.compare)
		return r.list
	}
	changed := s.Txn.ChangedSince(r.seen)
	if len(r.again) > 0 {
		changed, r.again = slices.Concat(r.again, changed), nil
	}
	if len(changed) == 0 {
		return r.list
	}
	r.seen = s.Txn.Changes()
	again := s.marked()
	fresh := make([]candidate, 0, len(changed))
	for _, i := range changed {
		if again.has(int(i)) {
			continue
		}
		again.add(int(i))
		if s.Snapshot.Nodes[i].Virtual || v.why[i] != "" {
			continue
		}
		if cand, ok := s.candidate(int(i), c, dim, roomLimit, v.likes); ok {
			fresh = append(fresh, cand)
		}
	}
	slices.SortFunc(fresh, candidate.compare)
	r.merge(again, fresh)
	return r.list
}

// marks is a set of nodes that is emptied at no cost.
type marks struct {
	at  []uint32
	now uint32
}

func (m *marks) has(node int) bool { return m.at[node] == m.now }
func (m *marks) add(node int)      { m.at[node] = m.now }

// marked returns an empty set of nodes, good until the next call.
func (s *Session) marked() *marks {
	if len(s.marks.at) < len(s.Snapshot.Nodes) {
		s.marks = marks{at: make([]uint32, len(s.Snapshot.Nodes))}
	}
	if s.marks.now++; s.marks.now == 0 {
		clear(s.marks.at)
		s.marks.now = 1
	}
	return &s.marks
}

// merge takes nodes out of the list and puts candidates, which are in order, in.
func (r *ranked) merge(out *marks, in []candidate) {
	to := slices.Grow(r.spare[:0], len(r.list)+len(in))
	for _, c := range r.list {
		if out.has(int(c.node)) {
			continue
		}
		for len(in) > 0 && in[0].compare(c) < 0 {
			to, in = append(to, in[0]), in[1:]
		}
		to = append(to, c)
	}
	to = append(to, in...)
	r.list, r.spare = to, r.list
}

// FreeIn is what is free of a dimension in a domain, what is overbooked not taken off.
func (s *Session) FreeIn(d Domain, dim int) int64 {
	if d.Virtual() {
		return max(s.Txn.FreeOf(d.Node, dim), 0)
	}
	return s.restOf(dim)
}
