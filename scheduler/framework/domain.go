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

// Domain is where a whole gang goes: one virtual node, or all real nodes.
type Domain struct {
	Name string
	Node int // position of the virtual node; -1 for the real nodes
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
// its first member is.
func (s *Session) DomainsFor(g *snapshot.Gang) []Domain {
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() {
			if d, ok := s.DomainOf(p.Node); ok {
				return []Domain{d}
			}
		}
	}
	for _, pl := range s.Plan.Placements {
		if pl.Gang == g.Key && len(pl.Binds) > 0 {
			if d, ok := s.DomainOf(pl.Binds[0].Node); ok {
				return []Domain{d}
			}
		}
	}
	return s.Domains()
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
	// Left is what stays free, of the resource that matters most to the gang, on
	// the hosts or nodes touched; Rest is the same over the whole domain.
	Left, Rest int64
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
	for _, p := range pods {
		i, ok := at[p.Class]
		if !ok {
			i = len(out)
			at[p.Class] = i
			out = append(out, group{class: p.Class})
		}
		out[i].pods = append(out[i].pods, p)
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
	if domains == nil {
		domains = s.DomainsFor(g)
	}
	groups := s.groups(pods)
	key := signature(groups, domains)
	if reasons, ok := s.failed[key]; ok {
		return nil, reasons // capacity only shrinks within a cycle
	}
	dim := s.dominant(groups)
	var best *Fit
	var reasons []plan.DomainReason
	for _, d := range domains {
		mark := s.Txn.Checkpoint()
		fit, reason := s.try(job, groups, d, dim)
		s.Txn.Rollback(mark)
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

func signature(groups []group, domains []Domain) string {
	var b strings.Builder
	for _, d := range domains {
		fmt.Fprintf(&b, "%d ", d.Node)
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "%p*%d ", g.class, len(g.pods))
	}
	return b.String()
}

func (s *Session) compareFits(a, b *Fit) int {
	for _, o := range s.domainOrder {
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

func (s *Session) try(job string, groups []group, d Domain, dim int) (*Fit, *plan.DomainReason) {
	if d.Virtual() {
		return s.tryVirtual(job, groups, d, dim)
	}
	return s.tryReal(job, groups, d, dim)
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
	for _, a := range f.Assigned {
		s.Txn.Put(a.Node, item(job, a.Pods))
	}
}

func item(job string, pods []*snapshot.Pod) snapshot.Item {
	return snapshot.Item{Class: pods[0].Class, Job: job, Count: int64(len(pods))}
}

func (s *Session) tryVirtual(job string, groups []group, d Domain, dim int) (*Fit, *plan.DomainReason) {
	reason := &plan.DomainReason{Domain: d.Name, Code: plan.NodesDontMatch}
	fit := &Fit{Domain: d}
	var items []snapshot.Item
	for _, g := range groups {
		if why := s.verdict(g.class).why[d.Node]; why != "" {
			reason.Nodes = append(reason.Nodes, plan.NodeCount{Why: why, Count: 1})
			return nil, reason
		}
		items = append(items, item(job, g.pods))
		fit.Assigned = append(fit.Assigned, Assignment{Node: d.Node, Pods: g.pods})
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

// Extend puts as many more pods as fit into a domain, class by class, and
// returns what it placed, already in the transaction. The pods are of g.
func (s *Session) Extend(g *snapshot.Gang, job string, pods []*snapshot.Pod, d Domain) []Assignment {
	var out []Assignment
	for _, gr := range s.groups(pods) {
		if d.Virtual() {
			if s.verdict(gr.class).why[d.Node] != "" {
				continue
			}
			// Fitting is monotonous in the count, so the largest count is found by halving.
			lo, hi := 0, len(gr.pods)
			for lo < hi {
				mid := (lo + hi + 1) / 2
				if s.Txn.TryHosts(d.Node, []snapshot.Item{item(job, gr.pods[:mid])}).Fits {
					lo = mid
				} else {
					hi = mid - 1
				}
			}
			if lo > 0 {
				s.Txn.PutHosts(d.Node, []snapshot.Item{item(job, gr.pods[:lo])})
				out = append(out, Assignment{Node: d.Node, Pods: gr.pods[:lo]})
			}
			continue
		}
		assigned, _ := s.spread(job, gr)
		out = append(out, assigned...)
	}
	return out
}
