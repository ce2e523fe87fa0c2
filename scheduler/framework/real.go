package framework

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// candidate is a real node that can take at least one pod of a class.
type candidate struct {
	node  int32
	room  int32
	likes int64 // what the class prefers about the node and the pods around it
	waste int64 // devices free there that the class does not ask for, as a share
	free  int64 // what is free of the class's dominant resource
}

// fillAny places every pod in d. It leaves its changes in the transaction; the
// caller rolls back. Placing is greedy, so a second order is tried when the first
// fails: classes with the fewest nodes to choose from first, lest the others take
// exactly those.
func (s *Session) fillAny(job string, groups []group, d Domain, dim int) (*Fit, *plan.DomainReason) {
	mark := s.Txn.Checkpoint()
	if s.mates != nil {
		if assigned, left := s.spreadMates(job, groups, d, nil); len(left) == 0 {
			return &Fit{Domain: d, Assigned: assigned}, nil
		}
		s.Txn.Rollback(mark)
	}
	fit, at, placed := s.fill(job, groups, d)
	if fit != nil {
		return fit, nil
	}
	s.Txn.Rollback(mark) // the reason is about what the whole gang found
	reason := s.realReason(d, groups, at, placed)
	picky := slices.Clone(groups)
	slices.SortStableFunc(picky, func(a, b group) int {
		return cmp.Compare(len(s.verdict(a.class).real), len(s.verdict(b.class).real))
	})
	if len(groups) > 1 {
		if fit, _, _ = s.fill(job, picky, d); fit != nil {
			return fit, nil
		}
		s.Txn.Rollback(mark)
	}
	// Where pods want each other near, the first decides for all: every place that
	// it could choose is tried.
	for _, g := range groups {
		for _, key := range s.Txn.SelfNear(g.class) {
			for _, p := range s.labelPlaces(key) {
				if d.Place != nil {
					p = p.And(d.Place)
				}
				if fit, _, _ = s.fill(job, groups, Domain{Name: d.Name, Node: -1, Place: p}); fit != nil {
					fit.Domain = d
					return fit, nil
				}
				s.Txn.Rollback(mark)
			}
		}
	}
	return nil, reason
}

// fill places groups in order. When one does not fit it returns its position and
// how many of its pods did.
func (s *Session) fill(job string, groups []group, d Domain) (fit *Fit, at, placed int) {
	fit = &Fit{Domain: d}
	for i, g := range groups {
		assigned, left := s.spread(job, g, d)
		if left > 0 {
			return nil, i, len(g.pods) - left
		}
		fit.Assigned = append(fit.Assigned, assigned...)
	}
	return fit, 0, 0
}

// remainder works out what a fit on real nodes, which is in the transaction,
// leaves behind.
func (s *Session) remainder(fit *Fit, dim int) {
	if dim < 0 {
		return
	}
	touched := map[int]bool{}
	fit.Left, fit.Rest = 0, 0
	for _, a := range fit.Assigned {
		if !touched[a.Node] {
			touched[a.Node] = true
			fit.Left = resource.Add(fit.Left, max(s.Txn.FreeOf(a.Node, dim), 0))
		}
	}
	if fit.Domain.Place == nil {
		fit.Rest = s.restOf(dim)
		return
	}
	for _, i := range fit.Domain.Place.Nodes {
		fit.Rest = resource.Add(fit.Rest, max(s.Txn.FreeOf(i, dim), 0))
	}
}

// admitted lists the real nodes of a domain that the filters let a class on.
func (s *Session) admitted(c *snapshot.Class, d Domain) []int {
	v := s.verdict(c)
	if d.Place == nil {
		return v.real
	}
	out := make([]int, 0, len(d.Place.Nodes))
	for _, i := range d.Place.Nodes {
		if v.why[i] == "" {
			out = append(out, i)
		}
	}
	return out
}

// spread puts pods of one class on real nodes, the tightest node first, and
// returns how many found none.
func (s *Session) spread(job string, g group, d Domain) ([]Assignment, int) {
	switch {
	case g.class.Claims != nil:
		return s.spreadClaiming(job, g, d)
	case s.Txn.DependsOnPods(g.class):
		return s.spreadSingly(job, g, d)
	case len(g.pods) > 1 && s.Txn.SwayedByPods(g.class):
		return s.spreadSwayed(job, g, d)
	case len(s.scope.judges) > 0:
		return s.spreadByRoom(job, g, d)
	}
	left := g.pods
	var out []Assignment
	for _, c := range s.candidates(g.class, int64(len(left)), d) {
		if len(left) == 0 {
			break
		}
		n := min(int(c.room), len(left))
		devices := s.Txn.Put(int(c.node), item(job, left[:n]))
		out = append(out, Assignment{Node: int(c.node), Pods: left[:n], Devices: devices})
		left = left[n:]
	}
	return out, len(left)
}

// spreadSingly puts pods on real nodes one after the other, since each may open
// or close nodes for the next.
func (s *Session) spreadSingly(job string, g group, d Domain) ([]Assignment, int) {
	var out []Assignment
	at := map[int]int{} // node to position in out
	for i, p := range g.pods {
		cands := s.candidates(g.class, 1, d)
		if len(cands) == 0 {
			return out, len(g.pods) - i
		}
		node := int(cands[0].node)
		one := []*snapshot.Pod{p}
		devices := s.Txn.Put(node, item(job, one))
		k, ok := at[node]
		if !ok || devices != nil {
			at[node] = len(out)
			out = append(out, Assignment{Node: node, Pods: one, Devices: devices})
			continue
		}
		out[k].Pods = append(out[k].Pods, p)
	}
	return out, 0
}

// spreadClaiming puts pods with claims on real nodes one after the other, each on the
// first node that also has the volumes and devices for it: to look for those is far
// dearer than to look at amounts.
func (s *Session) spreadClaiming(job string, g group, d Domain) ([]Assignment, int) {
	var out []Assignment
	for i, p := range g.pods {
		at, unmet := -1, map[string]int{}
		var got claims.Got
		for _, c := range s.candidates(g.class, 1, d) {
			var why string
			if got, why = s.Txn.Claim(int(c.node), g.class); why == "" {
				at = int(c.node)
				break
			}
			unmet[why]++
		}
		if at < 0 {
			s.unmet = unmet
			return out, len(g.pods) - i
		}
		one := []*snapshot.Pod{p}
		devices := s.Txn.Put(at, item(job, one))
		out = append(out, Assignment{Node: at, Pods: one, Devices: devices, Claims: []claims.Got{got}})
	}
	return out, 0
}

// candidates lists the nodes of a domain that can take a pod of a class, the best
// first. The caller must not change the list, which is good until the next call, and rooms
// may be more than limit.
func (s *Session) candidates(c *snapshot.Class, limit int64, in Domain) []candidate {
	if in.Place == nil && !s.Txn.Entangled(c) && len(s.scope.enterers) == 0 {
		return s.rankedNodes(c)
	}
	dim := s.scarcest(c)
	nodes, likes := s.admitted(c, in), s.verdict(c).likes
	out := slices.Grow(s.found[:0], len(nodes))
	for _, i := range nodes {
		if cand, ok := s.candidate(i, c, dim, limit, likes); ok {
			out = append(out, cand)
		}
	}
	slices.SortFunc(out, candidate.compare)
	s.found = out
	return out
}

// compare puts the better one first.
func (a candidate) compare(b candidate) int {
	switch { // by far the most frequent comparison of a cycle
	case a.likes != b.likes:
		return cmp.Compare(b.likes, a.likes)
	case a.waste != b.waste:
		return cmp.Compare(a.waste, b.waste)
	case a.free != b.free:
		return cmp.Compare(a.free, b.free)
	}
	return cmp.Compare(a.node, b.node)
}

// candidate looks at a node as it is now; ok is false where it takes no pod.
func (s *Session) candidate(i int, c *snapshot.Class, dim int, limit int64, likes []int64) (cand candidate, ok bool) {
	room := s.Txn.Room(i, c, limit)
	if room == 0 {
		return cand, false
	}
	judged, why := s.judge(i, c)
	if why != "" {
		return cand, false
	}
	cand = candidate{node: int32(i), room: int32(min(room, math.MaxInt32)), likes: resource.Add(s.Txn.PeerScore(i, c, s.scope.peers), judged)}
	if likes != nil {
		cand.likes = resource.Add(cand.likes, likes[i])
	}
	for d := range c.Request {
		switch {
		case d == dim:
			cand.free = s.Txn.FreeOf(i, d)
		case c.Request[d] == 0 && isDevice(s.Snapshot.Dims.Name(d)):
			cand.waste += resource.Share(s.Txn.FreeOf(i, d), s.Snapshot.Total[d])
		}
	}
	return cand, true
}

// realReason says why group at did not fit, with the groups before it placed:
// what all members need of what the nodes that admit any of them have free, or,
// should that suffice, what this group needs of the nodes that admit it.
func (s *Session) realReason(d Domain, groups []group, at, placed int) *plan.DomainReason {
	r := &plan.DomainReason{Domain: d.Name, Code: plan.NoCapacity, Nodes: s.counts(groups[at].class, d)}
	if len(s.admitted(groups[at].class, d)) == 0 {
		r.Code = plan.NodesDontMatch
		return r
	}
	for i, g := range groups {
		r.Wanted += int64(len(g.pods))
		if i < at {
			r.Placed += int64(len(g.pods))
		}
	}
	r.Placed += int64(placed)
	var largest resource.Vector
	if r.Short, _ = s.shortage(groups, d); len(r.Short) == 0 {
		if r.Short, largest = s.shortage(groups[at:at+1], d); len(r.Short) == 0 {
			r.Member = s.beyond(groups[at].class, largest)
			r.Nodes = s.withDetails(r.Nodes, groups[:at+1], d)
		}
	}
	return r
}

// withDetails adds the nodes that only lack the right GPUs or a free host port, or that
// other pods keep the last of the groups off, and what the members demand about each other.
func (s *Session) withDetails(counts []plan.NodeCount, groups []group, d Domain) []plan.NodeCount {
	c := groups[len(groups)-1].class
	mutual := s.mutual(groups)
	if c.Claims == nil && !c.AsksGPUs() && len(c.HostPorts) == 0 && !s.Txn.DependsOnPods(c) && len(s.scope.judges) == 0 && len(mutual) == 0 {
		return counts
	}
	by := map[string]int{}
	for _, n := range counts {
		by[n.Why] = n.Count
	}
	if last := groups[len(groups)-1]; len(c.HostPorts) > 0 && len(last.pods) > 1 {
		by[fmt.Sprintf("host port %s: one member a node", c.HostPorts[0])] = 0
	}
	for _, why := range mutual {
		by[why] = 0
	}
	if c.Claims != nil { // with the pods before it placed
		for why, n := range s.unmet {
			by[why] += n
		}
	}
	for _, i := range s.admitted(c, d) {
		why := s.Txn.GPUReason(i, c)
		if why == "" {
			why = s.Txn.PortReason(i, c)
		}
		if why == "" {
			why = s.Txn.PeerReason(i, c)
		}
		if why == "" {
			_, why = s.judge(i, c)
		}
		if why != "" {
			by[why]++
		}
	}
	return sortedCounts(by)
}

// mutual says what the last of the groups and those before it demand about each other.
func (s *Session) mutual(groups []group) []string {
	last := groups[len(groups)-1]
	others := make([]*snapshot.Class, 0, len(groups))
	for _, g := range groups[:len(groups)-1] {
		others = append(others, g.class)
	}
	if len(last.pods) > 1 {
		others = append(others, last.class)
	}
	return s.Txn.Mutual(last.class, others)
}

// shortage compares what groups need with what the nodes that admit any of them
// have free, and returns the most that one such node has.
func (s *Session) shortage(groups []group, d Domain) ([]snapshot.Shortage, resource.Vector) {
	need := make(resource.Vector, s.Snapshot.Dims.Len())
	free, largest := need.Clone(), need.Clone()
	one := s.verdict(groups[0].class)
	for _, g := range groups {
		need.AddScaled(g.class.Request, int64(len(g.pods)))
		if s.verdict(g.class) != one {
			one = nil
		}
	}
	if d.Place == nil && one != nil {
		f := s.following()
		for dim, a := range need {
			if a > 0 {
				on := restOn{one, dim}
				r := s.restIn(f, on)
				free[dim], largest[dim] = r.sum, s.largest(r, on)
			}
		}
		return s.lacking(need, free, largest), largest
	}
	seen := s.marked()
	for _, g := range groups {
		for _, i := range s.admitted(g.class, d) {
			if seen.has(i) {
				continue
			}
			seen.add(i)
			for dim := range need {
				f := max(s.Txn.FreeOf(i, dim), 0)
				free[dim] = resource.Add(free[dim], f)
				largest[dim] = max(largest[dim], f)
			}
		}
	}
	return s.lacking(need, free, largest), largest
}

// lacking lists of what less is free than is needed.
func (s *Session) lacking(need, free, largest resource.Vector) (out []snapshot.Shortage) {
	for dim, a := range need {
		if a > 0 && free[dim] < a {
			out = append(out, snapshot.Shortage{Resource: s.Snapshot.Dims.Name(dim), Need: a, Free: free[dim], Largest: largest[dim]})
		}
	}
	return out
}
