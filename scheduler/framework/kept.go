package framework

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// FindKept puts pods of a gang on the real nodes where room is kept for them, as
// FindDomain would: the plans of others were made with them there. It is nil, and nothing
// has changed, where no room is kept for some of them, or not all of it is free yet.
func (s *Session) FindKept(g *snapshot.Gang, job string, pods []*snapshot.Pod) *Fit {
	at := map[*snapshot.Pod]int{}
	for _, r := range s.kept[g.Key] {
		at[r.pod] = r.node
	}
	for _, p := range pods {
		node, ok := at[p]
		if !ok || s.Snapshot.Nodes[node].Virtual || p.Class.Claims != nil {
			return nil
		}
	}
	domain, ok := s.keptDomain(g)
	if !ok {
		return nil
	}
	s.enter(g)
	fit := &Fit{Domain: domain}
	if domain.Place != nil {
		fit.Tier = domain.Place.Tier
	}
	mark := s.Txn.Checkpoint()
	for _, p := range pods {
		if !s.seat(fit, job, p, at[p]) {
			s.Txn.Rollback(mark)
			return nil
		}
	}
	return fit
}

// keptDomain is the real nodes among which room is kept for a gang.
func (s *Session) keptDomain(g *snapshot.Gang) (Domain, bool) {
	if g.Nominated == nil {
		return Domain{}, false
	}
	name, narrow := strings.CutPrefix(g.Nominated.Domain, plan.RealDomain+"/")
	if !narrow {
		return placeDomain(nil), g.Nominated.Domain == plan.RealDomain
	}
	places := s.Snapshot.Places
	if g.Topology != nil && g.Topology.Key != "" {
		places = s.labelPlaces(g.Topology.Key)
	}
	i := slices.IndexFunc(places, func(p *snapshot.Place) bool { return p.Name == name })
	if i < 0 {
		return Domain{}, false
	}
	return placeDomain(places[i]), true
}

// seat puts one pod on a real node, if it may go there.
func (s *Session) seat(fit *Fit, job string, p *snapshot.Pod, node int) bool {
	v := s.verdict(p.Class)
	if v.why[node] != "" {
		return false
	}
	if _, ok := s.candidate(node, p.Class, s.scarcest(p.Class), 1, v.likes); !ok {
		return false
	}
	devices := s.Txn.Put(node, item(job, []*snapshot.Pod{p}))
	i := slices.IndexFunc(fit.Assigned, func(a Assignment) bool { return a.Node == node && a.Pods[0].Class == p.Class })
	if i < 0 {
		i = len(fit.Assigned)
		fit.Assigned = append(fit.Assigned, Assignment{Node: node})
	}
	a := &fit.Assigned[i]
	a.Pods, a.Devices = append(a.Pods, p), append(a.Devices, devices...)
	return true
}
