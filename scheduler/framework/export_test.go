package framework

import "github.com/isthmus-hpc/isthmus/scheduler/snapshot"

// Ranked gives the nodes that can take a pod of a gang's class, and what is free of
// a dimension, as they are kept up to date and as they are found anew.
func Ranked(s *Session, g *snapshot.Gang, dim int) (kept, anew []int32, free, again int64) {
	s.enter(g)
	c := g.Pods[0].Class
	nodes := func() (out []int32) {
		for _, cand := range s.candidates(c, 1, Domain{Node: -1}) {
			out = append(out, cand.node)
		}
		return out
	}
	kept, free = nodes(), s.restOf(dim)
	was, whatIf := s.follow, s.whatIf
	s.follow, s.whatIf = newFollow(was.txn), nil
	anew, again = nodes(), s.restOf(dim)
	s.follow, s.whatIf = was, whatIf
	return kept, anew, free, again
}
