package framework

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Domain is where a whole gang goes: one virtual node, or real nodes.
type Domain struct {
	Name string
	Node int // position of the virtual node; -1 for the real nodes
	// Place narrows the real nodes down; nil is all of them.
	Place *snapshot.Place
}

// Virtual reports whether the domain is a virtual node.
func (d Domain) Virtual() bool { return d.Node >= 0 }

// Domains lists all domains: virtual nodes by name, then the real nodes if any.
func (s *Session) Domains() []Domain {
	out := make([]Domain, 0, len(s.virtual)+1)
	for _, i := range s.virtual {
		out = append(out, Domain{Name: s.Snapshot.Nodes[i].Name, Node: i})
	}
	if len(s.real) > 0 {
		out = append(out, Domain{Name: plan.RealDomain, Node: -1})
	}
	return out
}

// DomainsFor lists where a gang may go: where it already is, this cycle's
// placements included, or anywhere. A gang that somebody else spread stays where
// its first member is; a loose one may be anywhere at any time. One whose members are
// all on nodes that do not exist may go nowhere: the node may come back with them.
func (s *Session) DomainsFor(g *snapshot.Gang) []Domain {
	if g.Loose {
		return s.Domains()
	}
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() {
			if d, ok := s.DomainOf(p.Node); ok {
				return []Domain{d}
			}
		}
	}
	for pl := range s.placements(g) {
		if len(pl.Binds) > 0 {
			if d, ok := s.DomainOf(pl.Binds[0].Node); ok {
				return []Domain{d}
			}
		}
	}
	if s.Stranded(g) != "" {
		return []Domain{}
	}
	return s.Domains()
}

// Stranded names a node that does not exist and that a member of the gang is bound to,
// "" when there is none. One that terminates does not come back.
func (s *Session) Stranded(g *snapshot.Gang) string {
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() && !p.Terminating {
			if _, ok := s.Snapshot.Node(p.Node); !ok {
				return p.Node
			}
		}
	}
	return ""
}

// DomainOf returns the domain that a node is in, and whether there is such a node.
func (s *Session) DomainOf(node string) (Domain, bool) {
	i, ok := s.Snapshot.Node(node)
	if !ok {
		return Domain{}, false
	}
	if s.Snapshot.Nodes[i].Virtual {
		return Domain{Name: node, Node: i}, true
	}
	return Domain{Name: plan.RealDomain, Node: -1}, true
}

// Fit is a way to put pods into a domain.
type Fit struct {
	Domain   Domain
	Assigned []Assignment
	// Start is how many seconds the gang is expected to wait there for a batch system
	// and for its data to be copied.
	Start int64
	// Tier is how far apart the pods are: 0 on a virtual node or where no demand
	// for closeness chose the place.
	Tier int64
	// Left is what stays free, of the resource that matters most to the gang, on
	// the hosts or nodes touched; Rest is the same over the whole domain.
	Left, Rest int64
	// Copies have to be made first: the gang cannot be placed there yet.
	Copies []snapshot.Copy
}

// group is the pods of one class.
type group struct {
	class *snapshot.Class
	pods  []*snapshot.Pod
}

// groups splits pods by class, largest dominant share first.
func (s *Session) groups(pods []*snapshot.Pod) []group {
	var out []group
	at := map[*snapshot.Class]int{}
	for k := 0; k < len(pods); {
		p, first := pods[k], k
		for k < len(pods) && pods[k].Class == p.Class { // most are of one class
			k++
		}
		i, ok := at[p.Class]
		if !ok {
			i = len(out)
			at[p.Class] = i
			out = append(out, group{class: p.Class})
		}
		out[i].pods = append(out[i].pods, pods[first:k]...)
	}
	slices.SortFunc(out, func(a, b group) int {
		sa, _ := a.class.Request.Dominant(s.Snapshot.Total)
		sb, _ := b.class.Request.Dominant(s.Snapshot.Total)
		return cmp.Or(-cmp.Compare(sa, sb), -a.class.Request.Compare(b.class.Request), strings.Compare(a.class.Key, b.class.Key))
	})
	return out
}

// FindDomain looks for the best of domains for all the pods of g together; nil
// domains are those of DomainsFor. On success the pods are in the transaction,
// and the caller commits the Fit or rolls back; otherwise nothing has changed and
// the reasons tell why of each domain. job is the batch job the pods belong to.
// It is the one search that every action uses: in a what-if, too.
func (s *Session) FindDomain(g *snapshot.Gang, job string, pods []*snapshot.Pod, domains []Domain) (*Fit, []plan.DomainReason) {
	s.enter(g)
	if domains == nil {
		domains = s.DomainsFor(g)
	}
	a := s.newAsk(g, job, pods)
	key := fmt.Sprintf("%p %p %s%s%s%s", s.scope, s.bar, s.opened, s.salt, s.stagingKey(g), signature(a, domains))
	if s.selective { // what fails for one namespace need not for another
		key += " " + g.Namespace
	}
	steady := !slices.ContainsFunc(a.all, func(g group) bool { return s.Txn.DependsOnPods(g.class) })
	if reasons, ok := s.failed[key]; ok && steady {
		return nil, reasons // capacity only shrinks within a cycle
	}
	var best *Fit
	var reasons []plan.DomainReason
	for _, d := range domains {
		fit, reason := s.try(a, d)
		if fit == nil {
			reasons = append(reasons, *reason)
		} else if best == nil || s.compareFits(fit, best) < 0 {
			best = fit
		}
	}
	if best == nil {
		s.failed[key] = reasons
		return nil, reasons
	}
	s.apply(job, best)
	return best, nil
}

// ask is a question to the domain search.
type ask struct {
	gang  *snapshot.Gang
	job   string
	pods  []*snapshot.Pod
	all   []group // all pods
	units []unit
	fixed []int // real nodes that placed members are on
	dim   int
}

func (s *Session) newAsk(g *snapshot.Gang, job string, pods []*snapshot.Pod) *ask {
	a := &ask{gang: g, job: job, pods: pods, all: s.groups(pods)}
	a.dim = s.dominant(a.all)
	if a.units = []unit{{groups: a.all}}; len(g.SubGroups) > 0 {
		a.units = s.units(g, pods, nil)
	}
	if g.Topology != nil {
		a.fixed = s.seats(g, nil, func(*snapshot.Pod) bool { return true })
	}
	return a
}

func signature(a *ask, domains []Domain) string {
	var b strings.Builder
	for _, d := range domains {
		fmt.Fprintf(&b, "%d ", d.Node)
		if d.Place != nil {
			b.WriteString(d.Place.Name)
		}
	}
	for _, u := range a.units {
		for _, g := range u.groups {
			fmt.Fprintf(&b, "%p*%d ", g.class, len(g.pods))
		}
	}
	b.WriteString(topologyKey(a))
	return b.String()
}

func (s *Session) compareFits(a, b *Fit) int {
	for _, o := range s.scope.domainOrder {
		if c := o.CompareFits(a, b); c != 0 {
			return c
		}
	}
	return strings.Compare(a.Domain.Name, b.Domain.Name)
}

// dominant is the dimension that matters most to a gang: the device it takes
// the largest share of, or else the resource; -1 when it asks for nothing.
func (s *Session) dominant(groups []group) int {
	need := make(resource.Vector, s.Snapshot.Dims.Len())
	devices := make(resource.Vector, s.Snapshot.Dims.Len())
	for _, g := range groups {
		need.AddScaled(g.class.Request, int64(len(g.pods)))
	}
	for d, a := range need {
		if isDevice(s.Snapshot.Dims.Name(d)) {
			devices[d] = a
		}
	}
	if _, dim := devices.Dominant(s.Snapshot.Total); dim >= 0 {
		return dim
	}
	_, dim := need.Dominant(s.Snapshot.Total)
	return dim
}

func isDevice(name string) bool { return strings.Contains(name, "/") }

// try asks one domain. It changes nothing.
func (s *Session) try(a *ask, d Domain) (*Fit, *plan.DomainReason) {
	var fit *Fit
	var reason *plan.DomainReason
	if d.Virtual() && !s.Snapshot.Serves(d.Node, a.gang.Namespace) {
		return nil, &plan.DomainReason{Domain: d.Name, Code: plan.NodesDontMatch, Nodes: []plan.NodeCount{{Count: 1,
			Why: fmt.Sprintf("no entry of spec.accounts of its BatchCluster selects namespace %s", a.gang.Namespace)}}}
	}
	if d.Virtual() {
		fit, reason = s.tryVirtual(a.job, a.all, d, a.dim)
	} else {
		fit, reason = s.tryReal(a, d)
	}
	if fit != nil && len(a.gang.Data) > 0 {
		var longest int64 // nodes are copied to side by side
		for _, on := range fit.Assigned {
			longest = max(longest, a.gang.TransferTo(s.Snapshot.Nodes[on.Node].Labels, d.Virtual()))
		}
		fit.Start = resource.Add(fit.Start, longest)
		if why := s.stage(a.gang, fit); why != "" {
			return nil, &plan.DomainReason{Domain: d.Name, Code: plan.NodesDontMatch, Nodes: []plan.NodeCount{{Count: 1, Why: why}}}
		}
	}
	return fit, reason
}

func (s *Session) apply(job string, f *Fit) {
	if f.Domain.Virtual() {
		items := make([]snapshot.Item, 0, len(f.Assigned))
		for _, a := range f.Assigned {
			items = append(items, item(job, a.Pods))
		}
		s.Txn.PutHosts(f.Domain.Node, items)
		return
	}
	for i := range f.Assigned {
		a := &f.Assigned[i]
		for _, got := range a.Claims {
			s.Txn.ClaimAs(a.Node, a.Pods[0].Class, got)
		}
		a.Devices = s.Txn.Put(a.Node, item(job, a.Pods))
	}
}

func item(job string, pods []*snapshot.Pod) snapshot.Item {
	return snapshot.Item{Class: pods[0].Class, Job: job, Count: int64(len(pods))}
}

func (s *Session) tryVirtual(job string, groups []group, d Domain, dim int) (*Fit, *plan.DomainReason) {
	reason := &plan.DomainReason{Domain: d.Name, Code: plan.NodesDontMatch}
	fit := &Fit{Domain: d, Start: s.Snapshot.Nodes[d.Node].Wait}
	var items []snapshot.Item
	for _, g := range groups {
		if why := s.verdict(g.class).why[d.Node]; why != "" {
			reason.Nodes = append(reason.Nodes, plan.NodeCount{Why: why, Count: 1})
			return nil, reason
		}
		items = append(items, item(job, g.pods))
		fit.Assigned = append(fit.Assigned, Assignment{Node: d.Node, Pods: g.pods})
	}
	if why := s.Txn.PeersAllow(d.Node, items); why != "" {
		reason.Nodes = append(reason.Nodes, plan.NodeCount{Why: why, Count: 1})
		return nil, reason
	}
	h := s.Txn.TryHosts(d.Node, items)
	if h.Fits {
		if dim >= 0 {
			fit.Left, fit.Rest = h.Touched[dim], s.Txn.Free(d.Node)[dim]
		}
		return fit, nil
	}
	reason.Code, reason.Short = plan.NoCapacity, h.Short
	for i, g := range groups {
		reason.Wanted += items[i].Count
		if h.Placed != nil {
			reason.Placed += h.Placed[i]
			reason.Member = append(reason.Member, s.beyond(g.class, h.Largest)...)
		}
	}
	if reason.Placed == reason.Wanted {
		reason.Nodes = append(reason.Nodes, plan.NodeCount{Why: "not together with the pods that are there", Count: 1})
	}
	return nil, reason
}

// beyond lists what one pod needs more of than any one host has.
func (s *Session) beyond(c *snapshot.Class, largest resource.Vector) []snapshot.Shortage {
	var out []snapshot.Shortage
	for d, a := range c.Request {
		if a > largest[d] {
			out = append(out, snapshot.Shortage{Resource: s.Snapshot.Dims.Name(d), Need: a, Largest: max(largest[d], 0)})
		}
	}
	return out
}

// Extend puts as many more pods of g as fit into a domain, class by class, and
// returns what it placed, already in the transaction. A part of the gang of which
// nothing is placed yet gets its size at once or nothing; beside is what the
// caller has placed and not committed.
func (s *Session) Extend(g *snapshot.Gang, job string, pods []*snapshot.Pod, d Domain, beside []Assignment) []Assignment {
	s.enter(g)
	if d.Virtual() {
		return s.extendVirtual(g, job, pods, d, beside)
	}
	var out []Assignment
	for _, u := range s.units(g, pods, beside) {
		place := d
		if need := s.missingOf(g, u, beside); need > 0 {
			first, rest := u.split(need)
			if first.count() < need {
				continue
			}
			fit, _ := s.fillPart(&ask{gang: g, job: job, dim: -1}, first, d)
			if fit == nil {
				continue
			}
			s.apply(job, fit)
			out = append(out, fit.Assigned...)
			u, place = rest, fit.Domain
		} else if u.topology != nil {
			var ok bool
			if place, ok = s.roomiest(u, d); !ok {
				continue
			}
		}
		if s.mates != nil {
			assigned, _ := s.spreadMates(job, u.groups, place, append(s.uncommitted(beside), out...))
			out = append(out, assigned...)
			continue
		}
		for _, gr := range u.groups {
			assigned, _ := s.spread(job, gr, place)
			out = append(out, assigned...)
		}
	}
	return out
}

// uncommitted are those of the assignments that are not in the plan yet: what is there is
// counted with what a gang has.
func (s *Session) uncommitted(all []Assignment) []Assignment {
	return slices.DeleteFunc(slices.Clone(all), func(a Assignment) bool {
		return !slices.ContainsFunc(a.Pods, func(p *snapshot.Pod) bool { return !s.placed[p.UID] })
	})
}

// missingOf is how many pods the unit's part lacks to be placed at all.
func (s *Session) missingOf(g *snapshot.Gang, u unit, beside []Assignment) int {
	if u.name == "" {
		return 0
	}
	placed := map[*snapshot.Pod]bool{}
	for _, a := range beside {
		for _, p := range a.Pods {
			placed[p] = true
		}
	}
	for _, part := range g.Parts() {
		if len(part.Pods) > 0 && part.Pods[0].PartOf() == u.name {
			return int(max(part.Need()-part.Placed(func(p *snapshot.Pod) bool { return placed[p] }), 0))
		}
	}
	return 0
}

// split takes the first n pods off a unit.
func (u unit) split(n int) (first, rest unit) {
	first, rest = u, u
	first.groups, rest.groups = nil, nil
	for _, g := range u.groups {
		k := min(n, len(g.pods))
		n -= k
		if k > 0 {
			first.groups = append(first.groups, group{g.class, g.pods[:k]})
		}
		if k < len(g.pods) {
			rest.groups = append(rest.groups, group{g.class, g.pods[k:]})
		}
	}
	return first, rest
}

// roomiest is the closest place that takes all further pods of a placed part, or
// else the one that takes most of them.
func (s *Session) roomiest(u unit, d Domain) (Domain, bool) {
	r := s.rooms([]unit{u})
	tiers, _ := s.places(d.Place, u.topology, u.fixed)
	best, most := Domain{}, int64(-1)
	for _, tier := range tiers {
		for _, p := range tier {
			if n := r.sum(p); n > most {
				best, most = placeDomain(p), n
			}
		}
	}
	return best, most >= 0
}

func (s *Session) extendVirtual(g *snapshot.Gang, job string, pods []*snapshot.Pod, d Domain, beside []Assignment) []Assignment {
	var out []Assignment
	for _, u := range s.units(g, pods, beside) {
		if need := s.missingOf(g, u, beside); need > 0 {
			first, rest := u.split(need)
			if first.count() < need {
				continue
			}
			fit, _ := s.tryVirtual(job, first.groups, d, -1)
			if fit == nil {
				continue
			}
			s.apply(job, fit)
			out = append(out, fit.Assigned...)
			u = rest
		}
		for _, gr := range u.groups {
			if s.verdict(gr.class).why[d.Node] != "" {
				continue
			}
			// Fitting is monotonous in the count, so the largest count is found by halving.
			lo, hi := 0, len(gr.pods)
			for lo < hi {
				mid := (lo + hi + 1) / 2
				more := []snapshot.Item{item(job, gr.pods[:mid])}
				if s.Txn.TryHosts(d.Node, more).Fits && s.Txn.PeersAllow(d.Node, more) == "" {
					lo = mid
				} else {
					hi = mid - 1
				}
			}
			if lo > 0 {
				s.Txn.PutHosts(d.Node, []snapshot.Item{item(job, gr.pods[:lo])})
				out = append(out, Assignment{Node: d.Node, Pods: gr.pods[:lo]})
			}
		}
	}
	return out
}
