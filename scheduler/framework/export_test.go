package framework

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Ranked gives the nodes that can take a pod of a gang's class, and what is free of
// a dimension, as they are kept up to date and as they are found anew.
//
// Where short, what the gang lacks is asked first: what is kept of that is looked at
// before any node is.
func Ranked(s *Session, g *snapshot.Gang, dim int, short bool) (kept, anew []int32, free, again int64) {
	s.enter(g)
	c := g.Pods[0].Class
	if short {
		s.shortage(s.groups(g.Pods), Domain{Node: -1})
	}
	nodes := func(in *snapshot.Place) (out []int32) {
		for _, cand := range s.candidates(c, 1, Domain{Node: -1, Place: in}) {
			out = append(out, cand.node)
		}
		return out
	}
	kept, free = nodes(nil), s.restOf(dim)
	was, whatIf := s.follow, s.whatIf
	s.follow, s.whatIf = newFollow(was.txn), nil
	anew, again = nodes(&snapshot.Place{Nodes: s.real}), s.restOf(dim)
	s.follow, s.whatIf = was, whatIf
	return kept, anew, free, again
}

// Short gives what a gang lacks and the largest of what it asks for that one node has, as
// kept up to date and as found by a look at all nodes.
func Short(s *Session, g *snapshot.Gang) (kept, anew []snapshot.Shortage, largest, most resource.Vector) {
	s.enter(g)
	groups := s.groups(g.Pods)
	kept, largest = s.shortage(groups, Domain{Node: -1})
	anew, most = s.shortage(groups, Domain{Node: -1, Place: &snapshot.Place{Nodes: s.real}})
	for dim := range most {
		if !slices.ContainsFunc(groups, func(g group) bool { return g.class.Request[dim] > 0 }) {
			most[dim] = 0 // nobody asks
		}
	}
	return kept, anew, largest, most
}

// ThenAndNow gives what is free of a dimension on every node when what goes is gone, and
// when the first half and all of what runs has ended, as kept up to date and as worked
// out anew.
func ThenAndNow(s *Session, g *snapshot.Gang, dim int) (kept, anew [][]int64) {
	frees := func(t *snapshot.Txn) (out []int64) {
		for i := range s.Snapshot.Nodes {
			out = append(out, t.FreeOf(i, dim))
		}
		return out
	}
	all := func() (out [][]int64) {
		out = append(out, frees(s.Future(g)))
		ends := s.endings()
		if len(ends) == 0 {
			return out
		}
		for _, at := range []int64{ends[len(ends)/2].at, ends[len(ends)-1].at} {
			out = append(out, frees(s.afterEnds(s.endedBy(at)).txn))
		}
		return out
	}
	kept = all()
	s.future, s.views, s.endsOn = nil, nil, nil
	return kept, all()
}
