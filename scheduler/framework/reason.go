package framework

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// QueueReason reports whether the gang's queue takes gangs, and why not.
func QueueReason(s *snapshot.Snapshot, g *snapshot.Gang) (plan.Unschedulable, bool) {
	q := s.Queue(g.Queue)
	switch {
	case q == nil:
		return plan.Unschedulable{Code: plan.QueueNotFound, Message: fmt.Sprintf("queue %q does not exist", g.Queue)}, false
	case !q.Open() && (!q.Serves() || g.Plain || g.Status.Phase == snapshot.GroupPending):
		return plan.Unschedulable{Code: plan.QueueClosed, Message: fmt.Sprintf("queue %q is %s", g.Queue, q.State)}, false
	}
	return plan.Unschedulable{}, true
}

// Whole is all that a domain offers, used or not, and the most that one node or
// host of it offers.
func (s *Session) Whole(d Domain) (total, largest resource.Vector) {
	total = make(resource.Vector, s.Snapshot.Dims.Len())
	largest = total.Clone()
	nodes := s.real
	if d.Virtual() {
		nodes = []int{d.Node}
	}
	for _, i := range nodes {
		v := s.Snapshot.Nodes[i].Total
		total.AddScaled(v, 1)
		for dim, a := range v {
			largest[dim] = max(largest[dim], a)
		}
	}
	return total, largest
}
