package framework

import (
	"container/heap"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Line is the gangs of a queue in the order in which they are served.
type Line struct {
	Queue *snapshot.Queue
	Gangs []*snapshot.Gang
}

// InTurn has gangs, whose queues exist, served one after the other: always the first of
// the queue that comes first at that moment. serve looks at the first of the line, and may
// take off those behind it. Only what that queue holds may have changed then, and only
// to more.
func (s *Session) InTurn(gangs []*snapshot.Gang, serve func(*Line)) {
	h := &lines{s: s}
	byQueue := map[string]*Line{}
	for _, g := range gangs {
		l := byQueue[g.Queue]
		if l == nil {
			l = &Line{Queue: s.Snapshot.Queue(g.Queue)}
			byQueue[g.Queue], h.lines = l, append(h.lines, l)
		}
		l.Gangs = append(l.Gangs, g)
	}
	for _, l := range h.lines {
		slices.SortFunc(l.Gangs, s.CompareGangs)
	}
	heap.Init(h)
	for h.Len() > 0 {
		l := h.lines[0]
		serve(l)
		if l.Gangs = l.Gangs[1:]; len(l.Gangs) == 0 {
			heap.Pop(h)
		} else {
			heap.Fix(h, 0)
		}
	}
}

type lines struct {
	s     *Session
	lines []*Line
}

func (h *lines) Len() int { return len(h.lines) }
func (h *lines) Less(i, j int) bool {
	return h.s.CompareQueues(h.lines[i].Queue, h.lines[j].Queue) < 0
}
func (h *lines) Swap(i, j int) { h.lines[i], h.lines[j] = h.lines[j], h.lines[i] }
func (h *lines) Push(x any)    { h.lines = append(h.lines, x.(*Line)) }
func (h *lines) Pop() any {
	last := h.lines[len(h.lines)-1]
	h.lines = h.lines[:len(h.lines)-1]
	return last
}
