package snapshot

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Topology is a demand for closeness: all pods it applies to go into one place.
// A virtual node is one node, whatever is demanded: its batch system knows the
// network behind it.
type Topology struct {
	// Hard says that the pods wait rather than go further apart; otherwise the
	// closest place that takes them is preferred.
	Hard bool `json:"hard,omitempty"`
	// Tier is the highest tier allowed; negative is any.
	Tier int64 `json:"tier"`
	// TierName names the highest tier allowed, in place of its number.
	TierName string `json:"tierName,omitempty"`
	// Key, when set, is a node label: a place is all nodes of one value. It
	// takes the place of tiers.
	Key string `json:"key,omitempty"`
}

// SubGroup is a policy for parts of a gang: pods that name it are parted by
// their Pod.SubGroup, and each part is placed together.
type SubGroup struct {
	Name string `json:"name"`
	// Size is how many pods a part needs to be placed at all, at least one.
	Size int64 `json:"size"`
	// Min is how many parts have to be placed for the gang to be whole.
	Min      int64     `json:"min,omitempty"`
	Topology *Topology `json:"topology,omitempty"`
}

// HyperNodeSpec is a HyperNode as the API says.
type HyperNodeSpec struct {
	Name     string   `json:"name"`
	UID      string   `json:"uid,omitempty"`
	Tier     int64    `json:"tier"`
	TierName string   `json:"tierName,omitempty"`
	Members  []Member `json:"members,omitempty"`
	// NodeCount is what its status says.
	NodeCount int64 `json:"nodeCount,omitempty"`
}

// Member selects nodes or other HyperNodes in one of three ways.
type Member struct {
	HyperNode bool                  `json:"hyperNode,omitempty"`
	Exact     string                `json:"exact,omitempty"`
	Pattern   string                `json:"pattern,omitempty"`
	Labels    *metav1.LabelSelector `json:"labels,omitempty"` // nodes only
}

// Place is a set of nodes that are close to each other. It is never changed.
type Place struct {
	Name     string
	Tier     int64
	TierName string
	// Nodes are the positions of its real nodes, ascending.
	Nodes []int
	// Count is the number of its nodes, virtual ones included.
	Count int64
	// Problem says what of its members could not be understood, "" if nothing.
	Problem string
}

// Holds reports whether every position is one of the place's nodes.
func (p *Place) Holds(nodes []int) bool {
	for _, i := range nodes {
		if _, ok := slices.BinarySearch(p.Nodes, i); !ok {
			return false
		}
	}
	return true
}

// And is the nodes of p that are also in o.
func (p *Place) And(o *Place) *Place {
	out := &Place{Name: o.Name, Tier: o.Tier, TierName: o.TierName}
	for _, i := range p.Nodes {
		if _, ok := slices.BinarySearch(o.Nodes, i); ok {
			out.Nodes = append(out.Nodes, i)
		}
	}
	return out
}

// Bounds on what HyperNodes can make us do. Patterns are RE2, whose matching is
// linear, so a bound on their length bounds the work.
const (
	maxPattern = 1024
	maxNesting = 16
)

// PlacesOf resolves HyperNodes over nodes, which are in their final order. The
// result is ordered by tier, then name. A HyperNode that contains itself counts
// for what it has besides.
func PlacesOf(specs []HyperNodeSpec, nodes []*Node) []*Place {
	r := resolver{specs: map[string]*HyperNodeSpec{}, nodes: nodes, done: map[string]*resolved{}}
	for i := range specs {
		r.specs[specs[i].Name] = &specs[i]
		r.names = append(r.names, specs[i].Name)
	}
	slices.Sort(r.names)
	out := []*Place{}
	for _, name := range r.names {
		h := r.specs[name]
		got := r.resolve(h, 0)
		p := &Place{Name: name, Tier: h.Tier, TierName: h.TierName, Problem: got.problem}
		for i, in := range got.nodes {
			if !in {
				continue
			}
			p.Count++
			if !nodes[i].Virtual {
				p.Nodes = append(p.Nodes, i)
			}
		}
		out = append(out, p)
	}
	sortPlaces(out)
	return out
}

func sortPlaces(ps []*Place) {
	slices.SortFunc(ps, func(a, b *Place) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), strings.Compare(a.Name, b.Name))
	})
}

type resolved struct {
	nodes   []bool // by position
	problem string
}

type resolver struct {
	specs map[string]*HyperNodeSpec
	names []string
	nodes []*Node
	done  map[string]*resolved
}

func (r *resolver) resolve(h *HyperNodeSpec, depth int) *resolved {
	if got := r.done[h.Name]; got != nil {
		return got // one under way included: a cycle adds nothing
	}
	out := &resolved{nodes: make([]bool, len(r.nodes))}
	r.done[h.Name] = out
	if depth > maxNesting {
		out.problem = fmt.Sprintf("nested deeper than %d", maxNesting)
		return out
	}
	for i, m := range h.Members {
		match, err := m.matcher()
		if err != nil {
			out.problem = fmt.Sprintf("member %d: %v", i, err)
			continue
		}
		if !m.HyperNode {
			for i, n := range r.nodes {
				out.nodes[i] = out.nodes[i] || match(n.Name, n.Labels)
			}
			continue
		}
		for _, name := range r.names {
			if !match(name, nil) || name == h.Name {
				continue
			}
			for i, in := range r.resolve(r.specs[name], depth+1).nodes {
				out.nodes[i] = out.nodes[i] || in
			}
		}
	}
	return out
}

func (m Member) matcher() (func(name string, of map[string]string) bool, error) {
	switch {
	case m.Exact != "":
		return func(name string, _ map[string]string) bool { return name == m.Exact }, nil
	case m.Pattern != "":
		if len(m.Pattern) > maxPattern {
			return nil, fmt.Errorf("the pattern has %d characters, more than %d", len(m.Pattern), maxPattern)
		}
		re, err := regexp.Compile(m.Pattern)
		if err != nil {
			return nil, fmt.Errorf("the pattern is invalid: %w", err)
		}
		return func(name string, _ map[string]string) bool { return re.MatchString(name) }, nil
	case m.Labels != nil && !m.HyperNode:
		sel, err := metav1.LabelSelectorAsSelector(m.Labels)
		if err != nil {
			return nil, fmt.Errorf("the label selector is invalid: %w", err)
		}
		return func(_ string, of map[string]string) bool { return sel.Matches(labels.Set(of)) }, nil
	}
	return nil, fmt.Errorf("it has no selector that applies")
}

// LabelPlaces makes a place of every value that real nodes have of a label.
func LabelPlaces(key string, tier int64, nodes []*Node) []*Place {
	by := map[string]*Place{}
	var out []*Place
	for i, n := range nodes {
		value, ok := n.Labels[key]
		if !ok || value == "" || n.Virtual {
			continue
		}
		p := by[value]
		if p == nil {
			p = &Place{Name: key + "=" + value, Tier: tier, TierName: key}
			by[value] = p
			out = append(out, p)
		}
		p.Nodes = append(p.Nodes, i)
		p.Count++
	}
	sortPlaces(out)
	return out
}

// DefaultLevels are the labels that stand for tiers 1, 2 and so on where there
// are no HyperNodes, the closest first: an NVLink clique (one NVL72, say), a
// rack, a block, a zone, a region.
func DefaultLevels() []string {
	return []string{"nvidia.com/gpu.clique", "topology.kubernetes.io/rack", "topology.kubernetes.io/block", "topology.kubernetes.io/zone", "topology.kubernetes.io/region"}
}

// placesOf chooses between HyperNodes and labels. A level keeps its tier whether or not
// nodes have it: else the first node with another label, or the last, would change what
// gangs mean by the number of a tier.
func placesOf(specs []HyperNodeSpec, levels []string, nodes []*Node) []*Place {
	if len(specs) > 0 {
		return PlacesOf(specs, nodes)
	}
	out := []*Place{}
	for i, key := range levels {
		out = append(out, LabelPlaces(key, int64(i)+1, nodes)...)
	}
	return out
}
