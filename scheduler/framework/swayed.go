package framework

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// spreadSwayed puts pods on real nodes one after the other where each that is placed
// changes which nodes the next would rather be on, and nothing else: what pods prefer
// is looked at anew for every node and pod, all the rest only where a pod was put.
func (s *Session) spreadSwayed(job string, g group, d Domain) ([]Assignment, int) {
	dim, likes := s.scarcest(g.class), s.verdict(g.class).likes
	cands := slices.Clone(s.candidates(g.class, 1, d))
	for i := range cands {
		cands[i].likes = resource.Sub(cands[i].likes, s.peerScore(cands[i], g.class))
	}
	seated := newSeating()
	for i, p := range g.pods {
		if len(cands) == 0 {
			return seated.out, len(g.pods) - i
		}
		best, first := 0, s.swayed(cands[0], g.class)
		for k := range cands[1:] {
			if c := s.swayed(cands[k+1], g.class); c.compare(first) < 0 {
				best, first = k+1, c
			}
		}
		node := int(first.node)
		devices := s.Txn.Put(node, item(job, g.pods[i:i+1]))
		seated.add(node, p, devices)
		if again, ok := s.candidate(node, g.class, dim, 1, likes); ok {
			again.likes = resource.Sub(again.likes, s.peerScore(again, g.class))
			cands[best] = again
		} else {
			cands = slices.Delete(cands, best, best+1)
		}
	}
	return seated.out, 0
}

// swayed is a candidate with what pods prefer about others as it is now.
func (s *Session) swayed(c candidate, class *snapshot.Class) candidate {
	c.likes = resource.Add(c.likes, s.peerScore(c, class))
	return c
}

func (s *Session) peerScore(c candidate, class *snapshot.Class) int64 {
	return s.Txn.PeerScore(int(c.node), class, s.scope.peers)
}
