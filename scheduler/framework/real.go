package framework

import (
	"cmp"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// candidate is a real node that can take at least one pod of a class.
type candidate struct {
	node  int
	room  int64
	waste int64 // devices free there that the class does not ask for, as a share
	free  int64 // what is free of the class's dominant resource
}

// tryReal places every pod on some real node. It leaves its changes in the
// transaction; the caller rolls back.
func (s *Session) tryReal(job string, groups []group, d Domain, dim int) (*Fit, *plan.DomainReason) {
	mark := s.Txn.Checkpoint()
	fit := &Fit{Domain: d}
	touched := map[int]bool{}
	for i, g := range groups {
		assigned, left := s.spread(job, g)
		if left > 0 {
			s.Txn.Rollback(mark) // the reason is about what the whole gang found
			return nil, s.realReason(d, groups, i, len(g.pods)-left)
		}
		fit.Assigned = append(fit.Assigned, assigned...)
		for _, a := range assigned {
			touched[a.Node] = true
		}
	}
	if dim < 0 {
		return fit, nil
	}
	for _, i := range s.real {
		free := max(s.Txn.Free(i)[dim], 0)
		fit.Rest = resource.Add(fit.Rest, free)
		if touched[i] {
			fit.Left = resource.Add(fit.Left, free)
		}
	}
	return fit, nil
}

// spread puts pods of one class on real nodes, the tightest node first, and
// returns how many found none.
func (s *Session) spread(job string, g group) ([]Assignment, int) {
	left := g.pods
	var out []Assignment
	for _, c := range s.candidates(g.class, int64(len(left))) {
		if len(left) == 0 {
			break
		}
		n := int(min(c.room, int64(len(left))))
		s.Txn.Put(c.node, item(job, left[:n]))
		out = append(out, Assignment{Node: c.node, Pods: left[:n]})
		left = left[n:]
	}
	return out, len(left)
}

func (s *Session) candidates(c *snapshot.Class, limit int64) []candidate {
	_, dim := c.Request.Dominant(s.Snapshot.Total)
	for d, a := range c.Request {
		if a > 0 && isDevice(s.Snapshot.Dims.Name(d)) {
			dim = d
			break
		}
	}
	v := s.verdict(c)
	out := make([]candidate, 0, len(v.real))
	for _, i := range v.real {
		room := s.Txn.Room(i, c, limit)
		if room == 0 {
			continue
		}
		cand := candidate{node: i, room: room}
		for d := range c.Request {
			switch {
			case d == dim:
				cand.free = s.Txn.FreeOf(i, d)
			case c.Request[d] == 0 && isDevice(s.Snapshot.Dims.Name(d)):
				cand.waste += resource.Share(s.Txn.FreeOf(i, d), s.Snapshot.Total[d])
			}
		}
		out = append(out, cand)
	}
	slices.SortFunc(out, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.waste, b.waste), cmp.Compare(a.free, b.free), cmp.Compare(a.node, b.node))
	})
	return out
}

// realReason says why group at did not fit, with the groups before it placed:
// what all members need of what the nodes that admit them have free.
func (s *Session) realReason(d Domain, groups []group, at, placed int) *plan.DomainReason {
	class := groups[at].class
	v := s.verdict(class)
	r := &plan.DomainReason{Domain: d.Name, Code: plan.NoCapacity, Nodes: v.counts}
	if len(v.real) == 0 {
		r.Code = plan.NodesDontMatch
		return r
	}
	need := make(resource.Vector, s.Snapshot.Dims.Len())
	for i, g := range groups {
		need.AddScaled(g.class.Request, int64(len(g.pods)))
		r.Wanted += int64(len(g.pods))
		if i < at {
			r.Placed += int64(len(g.pods))
		}
	}
	r.Placed += int64(placed)
	free, largest := make(resource.Vector, len(need)), make(resource.Vector, len(need))
	for _, i := range v.real {
		for dim := range need {
			f := max(s.Txn.FreeOf(i, dim), 0)
			free[dim] = resource.Add(free[dim], f)
			largest[dim] = max(largest[dim], f)
		}
	}
	for dim, a := range need {
		if a > 0 && free[dim] < a {
			r.Short = append(r.Short, snapshot.Shortage{Resource: s.Snapshot.Dims.Name(dim), Need: a, Free: free[dim], Largest: largest[dim]})
		}
	}
	if len(r.Short) == 0 {
		r.Member = s.beyond(class, largest)
	}
	return r
}
