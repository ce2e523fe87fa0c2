package hypernode

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"
)

// SourceLabel says on a HyperNode what it was made from: SourceLabels or SourceSlurm.
const SourceLabel = "volcano.sh/network-topology-source"

// What HyperNodes are made from.
const (
	SourceLabels = "label"
	SourceSlurm  = "slurm"
)

// Node is what is read of a node.
type Node struct {
	Name   string
	Labels map[string]string
}

// CheckLevels says what is wrong with the labels that stand for tiers.
func CheckLevels(levels []string) error {
	seen := map[string]bool{}
	for _, key := range levels {
		if msgs := validation.IsQualifiedName(key); len(msgs) > 0 {
			return fmt.Errorf("%q is no key of a label: %s", key, strings.Join(msgs, "; "))
		}
		if seen[key] {
			return fmt.Errorf("%q is given twice", key)
		}
		seen[key] = true
	}
	return nil
}

// FromLabels makes a HyperNode for each value of each label that nodes have.
// levels are the labels from the closest tier, 1, to the widest. A value counts
// within what is above it: rack 1 of zone a is another one than rack 1 of zone b.
// A node is in the tiers up to the first whose label it lacks. Tier 1 selects its
// nodes by their labels, so that it need not change with every node.
func FromLabels(nodes []Node, levels []string) []topology.HyperNode {
	type group struct {
		values   []string // from tier 1 to the last label that the nodes have
		tier     int
		children map[string]bool
	}
	groups := map[string]*group{}
	for _, n := range nodes {
		var values []string
		for _, key := range levels {
			v, ok := n.Labels[key]
			if !ok || v == "" {
				break
			}
			values = append(values, v)
		}
		child := ""
		for tier := 1; tier <= len(values); tier++ {
			name := labelName(levels, values, tier)
			g := groups[name]
			if g == nil {
				g = &group{values: values, tier: tier, children: map[string]bool{}}
				groups[name] = g
			}
			if child != "" {
				g.children[child] = true
			}
			child = name
		}
	}
	out := make([]topology.HyperNode, 0, len(groups))
	for name, g := range groups {
		h := topology.HyperNode{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{SourceLabel: SourceLabels}},
			Spec:       topology.HyperNodeSpec{Tier: g.tier, TierName: levels[g.tier-1]},
		}
		if g.tier == 1 {
			h.Spec.Members = []topology.MemberSpec{{Type: topology.MemberTypeNode, Selector: topology.MemberSelector{LabelMatch: selector(levels, g.values)}}}
		}
		for child := range g.children {
			h.Spec.Members = append(h.Spec.Members, member(topology.MemberTypeHyperNode, child))
		}
		sortMembers(h.Spec.Members)
		out = append(out, h)
	}
	sortNodes(out)
	return out
}

// selector takes the nodes with exactly these values: the label after the last is
// the one that they lack.
func selector(levels, values []string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: map[string]string{}}
	for i, v := range values {
		s.MatchLabels[levels[i]] = v
	}
	if len(values) < len(levels) {
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: levels[len(values)], Operator: metav1.LabelSelectorOpDoesNotExist}}
	}
	return s
}

// labelName is made of the value, for people, and a hash of all that it is about.
func labelName(levels, values []string, tier int) string {
	return objectName(SourceLabels, values[tier-1], append([]string{levels[tier-1]}, values[tier-1:]...))
}

func objectName(source, word string, about []string) string {
	sum := sha256.Sum256([]byte(strings.Join(about, "\x00")))
	clean := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, word), "-")
	if len(clean) > 40 {
		clean = strings.Trim(clean[:40], "-")
	}
	if clean != "" {
		clean += "-"
	}
	return source + "-" + clean + hex.EncodeToString(sum[:4])
}

func member(kind topology.MemberType, name string) topology.MemberSpec {
	return topology.MemberSpec{Type: kind, Selector: topology.MemberSelector{ExactMatch: &topology.ExactMatch{Name: name}}}
}

func sortMembers(ms []topology.MemberSpec) {
	name := func(m topology.MemberSpec) string {
		if m.Selector.ExactMatch == nil {
			return ""
		}
		return string(m.Type) + m.Selector.ExactMatch.Name
	}
	slices.SortFunc(ms, func(a, b topology.MemberSpec) int { return strings.Compare(name(a), name(b)) })
}

func sortNodes(hs []topology.HyperNode) {
	slices.SortFunc(hs, func(a, b topology.HyperNode) int { return strings.Compare(a.Name, b.Name) })
}
