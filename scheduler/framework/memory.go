package framework

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// memory is what a cycle leaves for those after it of what it has worked out of real nodes
// one by one: after a small change most nodes are the same, which is told by their address,
// and what filters, scorers and amounts say of them is as well. Only the others are looked at
// anew. A cycle that remembers decides to the byte what one does that does not: what depends
// on anything but the class and the node is not kept.
type memory struct {
	dims     *resource.Dims
	total    resource.Vector
	real     []int
	verdicts []keptVerdict
	ranked   []keptRanked
	rests    []keptRest
}

const (
	// mostKept bounds each of a memory's lists, mostIdle for how many cycles something is
	// kept that none of them needed: it holds on to the nodes as they were.
	mostKept, mostIdle = 16, 16
)

// basis is the nodes of which something is known: all of a snapshot as they are there, but
// for those that the cycle has moved, which are somehow else.
type basis struct {
	nodes []*snapshot.Node
	moved []int32
	idle  int // how many cycles have not needed it
}

type keptVerdict struct {
	basis
	kin   string
	lasts []lasts
	*verdict
}

type keptRanked struct {
	basis
	class       *snapshot.Class
	lasts       []lasts
	overlooked  snapshot.Overlooked
	list, spare []candidate
}

type keptRest struct {
	basis
	dim int
	*rest
}

// Remember takes what the cycle before has left, if it still means anything. It is called
// once, before any action.
func (s *Session) Remember() {
	m, ok := s.Snapshot.Memory().Take().(*memory)
	if !ok || m.dims != s.Snapshot.Dims || len(s.real) == 0 || len(m.real) != len(s.real) || &m.real[0] != &s.real[0] {
		return
	}
	if !slices.Equal(m.total, s.Snapshot.Total) {
		m.ranked = nil // what is scarce, and so wasted, goes by the sum of all nodes
	}
	s.memory = m
}

// Leave leaves to the cycle after what this one knows, and ends the session.
func (s *Session) Leave() {
	to := &memory{dims: s.Snapshot.Dims, total: s.Snapshot.Total, real: s.real}
	for _, key := range s.madeOfKin {
		if s.verdictLasts(key.by, key.bar) {
			to.verdicts = keep(to.verdicts, keptVerdict{s.basis(0), key.kin, key.by.lasts, s.ofKin[key]})
		}
	}
	for _, key := range s.madeRanked {
		if r := s.follow.ranked[key]; r.seen <= len(s.Snapshot.Nodes) { // else it costs more than looking anew
			to.ranked = keep(to.ranked, keptRanked{s.basis(r.seen), key.class, key.by.lasts, key.by.overlooked, r.list, r.spare})
		}
	}
	for dim := range s.Snapshot.Total {
		if r := s.follow.rest[restOn{nil, dim}]; r != nil && !r.off && r.sum <= mostSum && r.seen <= len(s.Snapshot.Nodes) {
			to.rests = keep(to.rests, keptRest{s.basis(r.seen), dim, r})
		}
	}
	if m := s.memory; m != nil {
		for _, k := range m.verdicts {
			if k.wait() {
				to.verdicts = keep(to.verdicts, k)
			}
		}
		for _, k := range m.ranked {
			if k.wait() {
				to.ranked = keep(to.ranked, k)
			}
		}
		for _, k := range m.rests {
			if k.wait() {
				to.rests = keep(to.rests, k)
			}
		}
	}
	s.Snapshot.Memory().Leave(to)
}

func keep[T any](all []T, one T) []T {
	if len(all) >= mostKept {
		return all
	}
	return append(all, one)
}

// basis is that of what was worked out when the cycle's transaction had had so many changes.
func (s *Session) basis(seen int) basis {
	return basis{nodes: s.Snapshot.Nodes, moved: slices.Clone(s.follow.txn.ChangedSince(0)[:seen])}
}

// wait counts a cycle that has not needed what is kept, and reports whether it stays.
func (b *basis) wait() bool {
	b.idle++
	return b.idle <= mostIdle
}

// others are the nodes of which nothing is known by a basis.
func (s *Session) others(b basis) []int32 {
	var out []int32
	if s.otherThan.nodes != nil && len(s.otherThan.nodes) == len(b.nodes) && &s.otherThan.nodes[0] == &b.nodes[0] {
		out = s.otherThan.moved
	} else {
		for i, n := range s.Snapshot.Nodes {
			if b.nodes[i] != n {
				out = append(out, int32(i)) //nolint:gosec // a position
			}
		}
		s.otherThan = basis{nodes: b.nodes, moved: out} // most of what is kept is of one cycle
	}
	if len(b.moved) == 0 {
		return out
	}
	return slices.Concat(out, b.moved)
}

// take takes one of what is kept out, nil when there is none.
func take[T any](all *[]T, is func(T) bool) *T {
	i := slices.IndexFunc(*all, is)
	if i < 0 {
		return nil
	}
	one := (*all)[i]
	*all = slices.Delete(*all, i, i+1)
	return &one
}

// verdictLasts reports whether verdicts hold in later cycles for nodes that are the same.
func (s *Session) verdictLasts(by *points, bar *bar) bool {
	return !by.passing && !by.unalike && bar == nil
}

// recallVerdict is what judgeNodes gives, by what is remembered; nil when nothing is.
func (s *Session) recallVerdict(c *snapshot.Class) *verdict {
	if s.memory == nil || !s.verdictLasts(s.scope, s.bar) {
		return nil
	}
	k := take(&s.memory.verdicts, func(k keptVerdict) bool { return k.kin == c.Kin && slices.Equal(k.lasts, s.scope.lasts) })
	if k == nil {
		return nil
	}
	v, changed := k.verdict, false
	for _, i := range s.others(k.basis) {
		why, likes := s.judgeNode(c, int(i))
		if why == v.why[i] && likes == v.liked(int(i)) {
			continue
		}
		if !changed {
			v, changed = &verdict{why: slices.Clone(v.why), likes: slices.Clone(v.likes)}, true
		}
		v.why[i] = why
		v.like(int(i), likes)
	}
	if changed {
		v.settle(s.real)
	}
	return v
}

// lasts reports whether the order of nodes for a class, by what is worked out over a
// transaction, holds in later cycles for nodes that are the same: no pod elsewhere, and
// nothing that plugins know of this cycle, has a say in it.
func (s *Session) lasts(f *follow, c *snapshot.Class) bool {
	return f == s.follow && s.verdictLasts(s.scope, s.bar) && len(s.scope.judges)+len(s.scope.enterers) == 0 && c.Claims == nil && s.Txn.Plain()
}

// recallRanked is the order of nodes for a class as it is remembered, with the nodes to be
// looked at again; nil when it is not.
func (s *Session) recallRanked(c *snapshot.Class) *ranked {
	if s.memory == nil {
		return nil
	}
	k := take(&s.memory.ranked, func(k keptRanked) bool {
		return k.class == c && k.overlooked == s.scope.overlooked && slices.Equal(k.lasts, s.scope.lasts)
	})
	if k == nil {
		return nil
	}
	return &ranked{list: k.list, spare: k.spare, again: s.others(k.basis)}
}

// recallRest is what is free on the real nodes as the cycle's transaction began, but for
// what it has changed, by what is remembered; nil when nothing is.
func (s *Session) recallRest(on restOn) *rest {
	if s.memory == nil {
		return nil
	}
	k := take(&s.memory.rests, func(k keptRest) bool { return k.dim == on.dim })
	if k == nil {
		return nil
	}
	k.seen = 0
	for _, i := range s.others(k.basis) {
		s.lookAgain(k.rest, on, i)
	}
	if k.sum > mostSum { // it may have been beyond all bounds in between
		return nil
	}
	return k.rest
}
