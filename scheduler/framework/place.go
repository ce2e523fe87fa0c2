package framework

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// unit is pods that one topology demand keeps together inside the gang's place.
type unit struct {
	name     string // of the part; "" for pods of none
	groups   []group
	topology *snapshot.Topology
	fixed    []int // nodes that placed members of the part are on
}

func (u unit) count() (n int) {
	for _, g := range u.groups {
		n += len(g.pods)
	}
	return n
}

// units splits pods by the parts of their gang: parts that demand closeness come
// first, the largest of them first, since they are the hardest to place.
func (s *Session) units(g *snapshot.Gang, pods []*snapshot.Pod, placed []Assignment) []unit {
	if len(g.SubGroups) == 0 {
		return []unit{{groups: s.groups(pods)}}
	}
	by := map[string][]*snapshot.Pod{}
	var out []unit
	for _, p := range pods {
		name := p.PartOf()
		if by[name] == nil {
			u := unit{name: name}
			for i := range g.SubGroups {
				if g.SubGroups[i].Name == p.Policy {
					u.topology = g.SubGroups[i].Topology
				}
			}
			out = append(out, u)
		}
		by[name] = append(by[name], p)
	}
	for i := range out {
		out[i].groups = s.groups(by[out[i].name])
		if out[i].topology != nil {
			out[i].fixed = s.seats(g, placed, func(p *snapshot.Pod) bool { return p.PartOf() == out[i].name })
		}
	}
	loose := func(u unit) int {
		if u.topology == nil {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b unit) int {
		return cmp.Or(cmp.Compare(loose(a), loose(b)), cmp.Compare(b.count(), a.count()))
	})
	return out
}

// seats lists the real nodes that members of g are on: bound ones, those of this
// cycle's placements and those of placed.
func (s *Session) seats(g *snapshot.Gang, placed []Assignment, of func(*snapshot.Pod) bool) []int {
	var out []int
	note := func(i int) {
		if !s.Snapshot.Nodes[i].Virtual && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	member := map[string]bool{}
	for _, p := range g.Pods {
		if !of(p) {
			continue
		}
		member[p.UID] = true
		if p.Node == "" || p.Terminal() {
			continue
		}
		if i, ok := s.Snapshot.Node(p.Node); ok {
			note(i)
		}
	}
	for pl := range s.placements(g) {
		for _, b := range pl.Binds {
			if i, ok := s.Snapshot.Node(b.Node); ok && member[b.UID] {
				note(i)
			}
		}
	}
	for _, a := range placed {
		if slices.ContainsFunc(a.Pods, of) {
			note(a.Node)
		}
	}
	return out
}

// places lists where t allows pods to be together inside outer, by tiers that
// are tried one after the other, the closest first. A soft demand ends with outer
// itself. why says what is wrong with the demand when nothing is allowed by it.
func (s *Session) places(outer *snapshot.Place, t *snapshot.Topology, fixed []int) (tiers [][]*snapshot.Place, why string) {
	if t == nil {
		return [][]*snapshot.Place{{outer}}, ""
	}
	all, highest := s.Snapshot.Places, t.Tier
	switch {
	case t.Key != "":
		all, highest = s.labelPlaces(t.Key), -1
		if len(all) == 0 {
			why = fmt.Sprintf("no node has the label %s", t.Key)
		}
	case t.TierName != "":
		highest = -1
		for _, p := range all {
			if p.TierName == t.TierName {
				highest = max(highest, p.Tier)
			}
		}
		if highest < 0 {
			all, why = nil, fmt.Sprintf("no HyperNode has the tier name %q", t.TierName)
		}
	case len(all) == 0:
		why = "there are no HyperNodes and no topology labels on nodes"
	}
	for _, p := range all {
		if highest >= 0 && p.Tier > highest && t.Hard {
			break // ordered by tier
		}
		if !p.Holds(fixed) || len(p.Nodes) == 0 || outer != nil && !outer.Holds(p.Nodes) {
			continue
		}
		if n := len(tiers); n > 0 && tiers[n-1][0].Tier == p.Tier {
			tiers[n-1] = append(tiers[n-1], p)
		} else {
			tiers = append(tiers, []*snapshot.Place{p})
		}
	}
	if !t.Hard {
		return append(tiers, []*snapshot.Place{outer}), ""
	}
	if len(tiers) == 0 && why == "" {
		why = "no " + tierWords(t) + " holds the nodes its members are on"
		if len(fixed) == 0 {
			why = "there is no " + tierWords(t)
			if highest >= 0 && len(all) > 0 && all[0].Tier > highest {
				why += "; there are " + presentTiers(all)
			}
		}
	}
	return tiers, why
}

// tierWords names what a hard demand allows.
func tierWords(t *snapshot.Topology) string {
	switch {
	case t.Key != "":
		return "set of nodes with one " + t.Key
	case t.TierName != "":
		return "HyperNode up to tier " + t.TierName
	case t.Tier < 0:
		return "HyperNode"
	}
	return fmt.Sprintf("HyperNode up to tier %d", t.Tier)
}

// presentTiers lists tiers with their names, from places in order.
func presentTiers(all []*snapshot.Place) string {
	var out []string
	for i, p := range all {
		if i > 0 && all[i-1].Tier == p.Tier {
			continue
		}
		text := fmt.Sprintf("tier %d", p.Tier)
		if p.TierName != "" {
			text += fmt.Sprintf(" (%s)", p.TierName)
		}
		out = append(out, text)
	}
	return bounded(out)
}

func (s *Session) labelPlaces(key string) []*snapshot.Place {
	if ps, ok := s.byLabel[key]; ok {
		return ps
	}
	ps := snapshot.LabelPlaces(key, 1, s.Snapshot.Nodes)
	s.byLabel[key] = ps
	return ps
}

// inside finds the best place that t allows inside outer: of the closest tier in
// which try succeeds, the fit that compares best. try must leave no change behind.
// Without one it returns every place that was tried, in order.
func (s *Session) inside(outer *snapshot.Place, t *snapshot.Topology, fixed []int, try func(*snapshot.Place) *Fit) (*Fit, []*snapshot.Place, string) {
	tiers, why := s.places(outer, t, fixed)
	var tried []*snapshot.Place
	for _, tier := range tiers {
		var best *Fit
		for _, p := range tier {
			tried = append(tried, p)
			if fit := try(p); fit != nil && (best == nil || s.compareFits(fit, best) < 0) {
				best = fit
			}
		}
		if best != nil {
			return best, nil, ""
		}
	}
	return nil, tried, why
}

// placeDomain is the domain of the real nodes of a place; nil is all of them.
func placeDomain(p *snapshot.Place) Domain {
	d := Domain{Name: plan.RealDomain, Node: -1, Place: p}
	if p != nil {
		d.Name = plan.RealDomain + "/" + p.Name
	}
	return d
}

// tryReal places every pod on some real node, in a place that the gang's topology
// allows. It changes nothing.
func (s *Session) tryReal(a *ask, d Domain) (*Fit, *plan.DomainReason) {
	rooms := s.rooms(a.units)
	var last *plan.DomainReason
	best, tried, why := s.inside(d.Place, a.gang.Topology, a.fixed, func(p *snapshot.Place) *Fit {
		if p != d.Place && !rooms.enough(p) {
			return nil
		}
		mark := s.Txn.Checkpoint()
		fit, reason := s.fillUnits(a, placeDomain(p))
		s.Txn.Rollback(mark)
		last = reason
		return fit
	})
	if best != nil {
		return best, nil
	}
	if a.gang.Topology == nil {
		return nil, last
	}
	return nil, s.tierReason(a, d, tried, rooms, why)
}

// tierReason says of a topology demand that cannot be met which place comes
// closest and what is short there.
func (s *Session) tierReason(a *ask, d Domain, tried []*snapshot.Place, rooms *rooms, why string) *plan.DomainReason {
	r := &plan.DomainReason{Domain: d.Name, Code: plan.NoCapacity}
	if t := a.gang.Topology; t != nil && t.Hard {
		r.Tier = tierWords(t)
	}
	if len(tried) == 0 {
		r.Code = plan.NodesDontMatch
		r.Nodes = []plan.NodeCount{{Why: why}}
		r.Tier = ""
		return r
	}
	var best *snapshot.Place
	most := int64(-1)
	for _, p := range tried {
		if n := rooms.sum(p); n > most {
			best, most = p, n
		}
	}
	mark := s.Txn.Checkpoint()
	_, reason := s.fillUnits(a, placeDomain(best))
	s.Txn.Rollback(mark)
	if reason == nil { // cannot be: it was tried
		return r
	}
	reason.Domain, reason.Tier = d.Name, r.Tier
	if best != nil {
		reason.Best = best.Name
	}
	return reason
}

// fillUnits places unit by unit inside d. It leaves its changes in the
// transaction; the caller rolls back.
func (s *Session) fillUnits(a *ask, d Domain) (*Fit, *plan.DomainReason) {
	fit := &Fit{Domain: d, Start: 0}
	for i, u := range a.units {
		var part *Fit
		var reason *plan.DomainReason
		if u.topology == nil {
			part, reason = s.fillAny(a.job, u.groups, d, a.dim)
		} else if part, reason = s.fillPart(a, u, d); part != nil {
			s.apply(a.job, part)
		}
		if part == nil {
			for _, before := range a.units[:i] {
				reason.Placed += int64(before.count())
			}
			if reason.Code == plan.NoCapacity {
				reason.Wanted = int64(len(a.pods))
			}
			return nil, reason
		}
		fit.Assigned = append(fit.Assigned, part.Assigned...)
		fit.Tier = max(fit.Tier, part.Tier)
	}
	if d.Place != nil {
		fit.Tier = d.Place.Tier
	}
	s.remainder(fit, a.dim)
	return fit, nil
}

// fillPart finds a part its place inside d. It changes nothing.
func (s *Session) fillPart(a *ask, u unit, d Domain) (*Fit, *plan.DomainReason) {
	rooms := s.rooms([]unit{u})
	best, tried, why := s.inside(d.Place, u.topology, u.fixed, func(p *snapshot.Place) *Fit {
		if p != d.Place && !rooms.enough(p) {
			return nil
		}
		mark := s.Txn.Checkpoint()
		fit, _ := s.fillAny(a.job, u.groups, placeDomain(p), a.dim)
		if fit != nil {
			if p != nil {
				fit.Tier = p.Tier
			}
			s.remainder(fit, a.dim)
		}
		s.Txn.Rollback(mark)
		return fit
	})
	if best != nil {
		return best, nil
	}
	sub := &ask{gang: &snapshot.Gang{GangSpec: snapshot.GangSpec{Topology: u.topology}}, job: a.job, units: []unit{{groups: u.groups}}, dim: a.dim}
	for _, g := range u.groups {
		sub.pods = append(sub.pods, g.pods...)
	}
	r := s.tierReason(sub, d, tried, rooms, why)
	r.Part = u.name
	return nil, r
}

// rooms is how many pods of each class every node can take at the most, to rule
// places out without filling them.
type rooms struct {
	session *Session
	groups  []group
	room    [][]int64 // by group and node
}

func (s *Session) rooms(units []unit) *rooms {
	r := &rooms{session: s}
	for _, u := range units {
		r.groups = append(r.groups, u.groups...)
	}
	return r
}

// enough reports whether the nodes of p have room for every class on its own.
func (r *rooms) enough(p *snapshot.Place) bool {
	r.fill()
	for i, g := range r.groups {
		left := int64(len(g.pods))
		for _, n := range p.Nodes {
			if left -= r.room[i][n]; left <= 0 {
				break
			}
		}
		if left > 0 {
			return false
		}
	}
	return true
}

// sum is how many of the pods p could take if each class were alone there.
func (r *rooms) sum(p *snapshot.Place) int64 {
	r.fill()
	nodes := r.session.real
	if p != nil {
		nodes = p.Nodes
	}
	var out int64
	for i, g := range r.groups {
		var n int64
		for _, at := range nodes {
			n = min(n+r.room[i][at], int64(len(g.pods)))
		}
		out += n
	}
	return out
}

func (r *rooms) fill() {
	if r.room != nil {
		return
	}
	r.room = make([][]int64, len(r.groups))
	for i, g := range r.groups {
		r.room[i] = make([]int64, len(r.session.Snapshot.Nodes))
		for _, n := range r.session.verdict(g.class).real {
			r.room[i][n] = r.session.Txn.Room(n, g.class, int64(len(g.pods)))
		}
	}
}

// topologyKey is what a signature has to hold of demands for closeness.
func topologyKey(a *ask) string {
	if a.gang.Topology == nil && len(a.gang.SubGroups) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%v|", a.fixed)
	if a.gang.Topology != nil {
		fmt.Fprintf(&b, "%+v|", *a.gang.Topology)
	}
	for _, u := range a.units {
		fmt.Fprintf(&b, "%d %v", u.count(), u.fixed)
		if u.topology != nil {
			fmt.Fprintf(&b, "%+v", *u.topology)
		}
		for _, g := range u.groups {
			fmt.Fprintf(&b, " %p*%d", g.class, len(g.pods))
		}
	}
	return b.String()
}
