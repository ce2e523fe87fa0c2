package framework

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// QueueReason reports whether the gang's queue takes gangs, and why not.
func QueueReason(s *Session, g *snapshot.Gang) (plan.Unschedulable, bool) {
	q := s.Snapshot.Queue(g.Queue)
	fault := s.Ledger.Stopped(g.Queue)
	switch {
	case q == nil:
		return plan.Unschedulable{Code: plan.QueueNotFound, Message: fmt.Sprintf("queue %q does not exist", g.Queue)}, false
	case !q.Open() && (!q.Serves() || g.Plain || g.Status.Phase == snapshot.GroupPending || g.Native && g.Have() == 0):
		return plan.Unschedulable{Code: plan.QueueClosed, Message: fmt.Sprintf("queue %q is %s", g.Queue, q.State)}, false
	case fault != nil:
		return plan.Unschedulable{Code: plan.QueueInvalid, Message: fault.Message}, false
	}
	return plan.Unschedulable{}, true
}

// OverQuota returns why a gang's queue, or one above it, may not hold pods as
// well, nil when it may.
func (s *Session) OverQuota(g *snapshot.Gang, pods []*snapshot.Pod) *plan.Unschedulable {
	if r := s.Ledger.Refuses(g.Queue, s.sum(pods)); r != nil {
		return &plan.Unschedulable{Code: plan.OverQuota, Message: r.Words()}
	}
	return nil
}

// Affords reports whether the gang's queue, and those above it, may hold the members that
// have to be placed once others have given back what given says, by queue. What is kept
// for the gang is part of what it needs, and what is going away is gone.
func (s *Session) Affords(b Blocked, given map[string]resource.Vector) bool {
	s.leaving()
	s.countRooms(b.Gang, -1)
	for queue, v := range given {
		s.Ledger.Give(queue, v, 1)
	}
	refusal := s.Ledger.Refuses(b.Gang.Queue, s.sum(b.Must))
	for queue, v := range given {
		s.Ledger.Take(queue, v, 1)
	}
	s.countRooms(b.Gang, 1)
	return refusal == nil
}

// Beyond returns those of the waiting members, in order, that may be placed beside those
// of them that have to be, which are nil or not committed yet.
func (s *Session) Beyond(g *snapshot.Gang, waiting, must []*snapshot.Pod) []*snapshot.Pod {
	rest := slices.DeleteFunc(Without(slices.Clone(waiting), must), func(p *snapshot.Pod) bool {
		return p.Class.Unsupported != "" || len(p.Class.Missing) > 0
	})
	return s.withinQuota(g, must, rest)
}

// withinQuota returns those of more, in order, that the gang's queue may hold
// beside must.
func (s *Session) withinQuota(g *snapshot.Gang, must, more []*snapshot.Pod) []*snapshot.Pod {
	sum := s.sum(must)
	all := sum.Clone()
	all.AddScaled(s.sum(more), 1)
	if s.Ledger.Refuses(g.Queue, all) == nil {
		return more // as nearly always
	}
	var out []*snapshot.Pod
	for _, p := range more {
		sum.AddScaled(p.Class.Request, 1)
		if s.Ledger.Refuses(g.Queue, sum) != nil {
			sum.SubScaled(p.Class.Request, 1)
			continue
		}
		out = append(out, p)
	}
	return out
}

func (s *Session) sum(pods []*snapshot.Pod) resource.Vector {
	out := make(resource.Vector, s.Snapshot.Dims.Len())
	for _, p := range pods {
		out.AddScaled(p.Class.Request, 1)
	}
	return out
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
