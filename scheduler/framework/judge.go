package framework

import (
	"container/heap"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// judge adds up what plugins say of a node as it is now; why is the first refusal.
func (s *Session) judge(node int, c *snapshot.Class) (score int64, why string) {
	if len(s.scope.judges) == 0 {
		return 0, ""
	}
	free := func(dim int) int64 { return s.Txn.FreeOf(node, dim) }
	for _, j := range s.scope.judges {
		v, why := j.JudgeRoom(c, s.Snapshot.Nodes[node], free)
		if why != "" {
			return 0, why
		}
		score = resource.Add(score, v)
	}
	return score, ""
}

// scarcest is the dimension by which a class fills nodes: that of the devices it
// asks for, else the one it takes most of.
func (s *Session) scarcest(c *snapshot.Class) int {
	for d, a := range c.Request {
		if a > 0 && isDevice(s.Snapshot.Dims.Name(d)) {
			return d
		}
	}
	_, dim := c.Request.Dominant(s.Snapshot.Total)
	return dim
}

// byWorth is a heap of candidates, the best first.
type byWorth []candidate

func (h byWorth) Len() int           { return len(h) }
func (h byWorth) Less(i, j int) bool { return h[i].compare(h[j]) < 0 }
func (h byWorth) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byWorth) Push(x any)        { *h = append(*h, x.(candidate)) } //nolint:forcetypeassert // the heap's own type
func (h *byWorth) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// spreadByRoom puts pods of one class on real nodes one after the other, each where
// plugins like it best after the one before. Only the node that took a pod is
// looked at again.
func (s *Session) spreadByRoom(job string, g group, d Domain) ([]Assignment, int) {
	dim, likes := s.scarcest(g.class), s.verdict(g.class).likes
	best := byWorth(slices.Clone(s.candidates(g.class, 1, d))) // in order, which is a heap
	seated := newSeating()
	for i, p := range g.pods {
		if len(best) == 0 {
			return seated.out, len(g.pods) - i
		}
		node := int(best[0].node)
		devices := s.Txn.Put(node, item(job, g.pods[i:i+1]))
		seated.add(node, p, devices)
		if again, ok := s.candidate(node, g.class, dim, 1, likes); ok {
			best[0] = again
			heap.Fix(&best, 0)
		} else {
			heap.Pop(&best)
		}
	}
	return seated.out, 0
}
