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
	if !ok || !s.mayJoin(g, domain) {
		return nil
	}
	s.enter(g)
	fit := &Fit{Domain: domain}
	if domain.Place != nil {
		fit.Tier = domain.Place.Tier
	}
	mark := s.Txn.Checkpoint()
	seats := newSeating()
	for _, p := range pods {
		if !s.seat(seats, job, p, at[p]) {
			s.Txn.Rollback(mark)
			return nil
		}
	}
	fit.Assigned = seats.out
	return fit
}

// FindBeside is for a gang that room is kept for and that found none, since the rooms of
// others, made since, and pieces of reservations are made of that of pods which are still
// there: these do not count, if with the gang placed all of them are there once everything
// has gone that is going away. Else the gang's own room, which is free, would be kept for
// it in vain for as long as others end. It is nil, and nothing has changed, where that
// does not help.
//
// The rooms of those that were nominated before count, although the gang's own victims may
// have gone and theirs not: nobody knows for whom a pod goes, and the gang could as well take
// what was left for the others and have them wait for its own victims. So it waits for those
// of the others too where they cannot start, as long as pods take to end at most.
func (s *Session) FindBeside(g *snapshot.Gang, job string, pods []*snapshot.Pod) *Fit {
	if !s.Nominated(g) || len(s.going()) == 0 {
		return nil
	}
	var others []*snapshot.Gang
	for _, o := range s.Snapshot.Gangs {
		if o != g && s.Nominated(o) && o.Nominated != nil && g.Nominated != nil && o.Nominated.Since >= g.Nominated.Since {
			others = append(others, o)
		}
	}
	var pending []*pieces
	if s.reserved != nil {
		for _, p := range s.reserved.pieces {
			if later := p.behindLeaving(); len(later.kept) > 0 && !p.Owns(g) {
				pending = append(pending, later)
			}
		}
	}
	domain, ok := s.nominatedDomain(g)
	if !ok || len(others)+len(pending) == 0 || !s.mayJoin(g, domain) {
		return nil
	}
	later := s.fork(s.afterLeaving())
	mark := s.Txn.Checkpoint()
	for _, o := range others {
		s.fillRooms(o, false)
	}
	for _, p := range pending {
		s.putPieces(p, false)
	}
	s.Txn.Guard(later)
	var fit *Fit
	s.WhatIf(s.Txn, func() { // what is known to fail is so with the rooms of others
		if fit = s.FindKept(g, job, pods); fit == nil {
			fit, _ = s.FindDomain(g, job, pods, []Domain{domain})
		}
	})
	s.Txn.Guard()
	if fit == nil {
		s.Txn.Rollback(mark)
		return nil
	}
	for _, o := range others {
		s.fillRooms(o, true)
	}
	for _, p := range pending {
		s.putPieces(p, true)
	}
	return fit
}

// mayJoin reports whether a gang, of which members may be somewhere already, may be placed
// in a domain: room may be kept for some in one, and others have been placed in another.
func (s *Session) mayJoin(g *snapshot.Gang, domain Domain) bool {
	return slices.ContainsFunc(s.DomainsFor(g), func(d Domain) bool {
		return d.Virtual() == domain.Virtual() && (!d.Virtual() || d.Node == domain.Node)
	})
}

// GiveUpKept gives up the room on a virtual node that is kept for a gang, until the end of
// the cycle, where its pods do not fit although as much is free and nothing is going away
// there: what fits hosts beside other pods need not fit without them, since packing is no
// exact search. Where less is free those who are in the way have yet to be sent away, by
// the next scheduler maybe. It is called between Unhold and Rehold, and reports whether
// there was any.
func (s *Session) GiveUpKept(g *snapshot.Gang, pods []*snapshot.Pod) bool {
	d, ok := s.nominatedDomain(g)
	if s.going(); !ok || !d.Virtual() || !s.Nominated(g) || len(s.goesOn[d.Node]) > 0 {
		return false
	}
	for dim, a := range s.sum(pods) {
		if a > 0 && s.Txn.FreeOf(d.Node, dim) < a {
			return false
		}
	}
	s.kept[g.Key] = nil
	return true
}

// nominatedDomain is the domain in which room is kept for a gang.
func (s *Session) nominatedDomain(g *snapshot.Gang) (Domain, bool) {
	if g.Nominated != nil {
		if d, ok := s.DomainOf(g.Nominated.Domain); ok && d.Virtual() {
			return d, true
		}
	}
	return s.keptDomain(g)
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
func (s *Session) seat(seats *seating, job string, p *snapshot.Pod, node int) bool {
	v := s.verdict(p.Class)
	if v.why[node] != "" {
		return false
	}
	if _, ok := s.candidate(node, p.Class, s.scarcest(p.Class), 1, v.likes); !ok {
		return false
	}
	seats.add(node, p, s.Txn.Put(node, item(job, []*snapshot.Pod{p})))
	return true
}
