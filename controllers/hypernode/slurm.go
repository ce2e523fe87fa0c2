package hypernode

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends/hostlist"
)

// mostHosts bounds what one list of hosts may stand for.
const mostHosts = 1 << 17

// aSwitch is a line of the topology.
type aSwitch struct {
	name     string
	hosts    []string
	children []string
	tier     int // 0 while it is not known
}

// Slurm is a network as Slurm describes it.
type Slurm struct{ switches []*aSwitch }

// ParseSlurm reads topology.conf(5), of topology/tree and topology/block, or what
// `scontrol show topology` prints: lines of SwitchName=, Nodes= and Switches=, or
// BlockName= and Nodes=. Keywords are in any case; other ones are passed over.
func ParseSlurm(text string) (*Slurm, error) {
	out := &Slurm{}
	byName := map[string]*aSwitch{}
	text = strings.ReplaceAll(text, "\\\n", " ")
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		s := &aSwitch{}
		for _, word := range strings.Fields(line) {
			key, value, _ := strings.Cut(word, "=")
			var err error
			switch strings.ToLower(key) {
			case "switchname", "blockname":
				s.name = value
			case "nodes":
				s.hosts, err = expand(value)
			case "switches":
				s.children, err = expand(value)
			}
			if err != nil {
				return nil, fmt.Errorf("line %d: %s: %w", number, key, err)
			}
		}
		if s.name == "" {
			continue // BlockSizes= and the like
		}
		if byName[s.name] != nil {
			return nil, fmt.Errorf("line %d: switch %s is there twice", number, s.name)
		}
		byName[s.name] = s
		out.switches = append(out.switches, s)
	}
	for _, s := range out.switches {
		for _, child := range s.children {
			if byName[child] == nil {
				return nil, fmt.Errorf("switch %s: Switches: no switch is named %s", s.name, child)
			}
		}
	}
	// A switch is one tier above the highest of those beneath it. What is left when
	// nothing more is known is a circle.
	for known, before := 0, -1; known < len(out.switches); {
		if known == before {
			return nil, fmt.Errorf("switches are beneath each other in a circle")
		}
		before = known
		for _, s := range out.switches {
			if s.tier > 0 {
				continue
			}
			tier := 1
			for _, child := range s.children {
				if byName[child].tier == 0 {
					tier = 0
					break
				}
				tier = max(tier, byName[child].tier+1)
			}
			if tier > 0 {
				s.tier = tier
				known++
			}
		}
	}
	return out, nil
}

func expand(list string) ([]string, error) {
	if list == "" || list == "(null)" {
		return nil, nil
	}
	names, err := hostlist.Expand(list, mostHosts)
	if err != nil {
		return nil, fmt.Errorf("read list of names: %w", err)
	}
	return names, nil
}

// HyperNodes makes one for each switch that leads to nodes of the cluster. A host
// is the node of its name, or the one whose name before the first dot it is.
func (s *Slurm) HyperNodes(nodes []Node) []topology.HyperNode {
	byName := map[string]string{}
	for _, n := range nodes {
		short, _, _ := strings.Cut(n.Name, ".")
		if byName[short] == "" || n.Name == short {
			byName[short] = n.Name
		}
		byName[n.Name] = n.Name
	}
	names := map[string]string{} // of the switches that lead somewhere
	var out []topology.HyperNode
	inOrder := slices.Clone(s.switches)
	slices.SortStableFunc(inOrder, func(a, b *aSwitch) int { return a.tier - b.tier })
	for _, sw := range inOrder {
		h := topology.HyperNode{
			ObjectMeta: metav1.ObjectMeta{Name: objectName(SourceSlurm, sw.name, []string{sw.name}), Labels: map[string]string{SourceLabel: SourceSlurm}},
			Spec:       topology.HyperNodeSpec{Tier: sw.tier},
		}
		for _, host := range sw.hosts {
			if node := byName[strings.ToLower(host)]; node != "" {
				h.Spec.Members = append(h.Spec.Members, member(topology.MemberTypeNode, node))
			}
		}
		for _, child := range sw.children {
			if name := names[child]; name != "" {
				h.Spec.Members = append(h.Spec.Members, member(topology.MemberTypeHyperNode, name))
			}
		}
		if len(h.Spec.Members) == 0 {
			continue
		}
		sortMembers(h.Spec.Members)
		names[sw.name] = h.Name
		out = append(out, h)
	}
	sortNodes(out)
	return out
}
