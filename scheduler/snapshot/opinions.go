package snapshot

import (
	"slices"
	"sort"
	"strings"
)

// Opinion is what an extender said of the pods of one class.
type Opinion struct {
	// Class is the Key of the class.
	Class string `json:"class"`
	// Failed says why there is no answer, "" when there is one.
	Failed string `json:"failed,omitempty"`
	// Nodes are what it said of nodes, ordered by name.
	Nodes []NodeOpinion `json:"nodes,omitempty"`
}

// NodeOpinion is what an extender said of one node.
type NodeOpinion struct {
	Node string `json:"node"`
	// Why is why the pods may not go there, "" when they may.
	Why   string `json:"why,omitempty"`
	Score int64  `json:"score,omitempty"`
}

// On returns what was said of a node, and whether anything was.
func (o *Opinion) On(node string) (NodeOpinion, bool) {
	i := sort.Search(len(o.Nodes), func(i int) bool { return o.Nodes[i].Node >= node })
	if i < len(o.Nodes) && o.Nodes[i].Node == node {
		return o.Nodes[i], true
	}
	return NodeOpinion{}, false
}

// SetOpinions gives the snapshot what an extender said before it is used.
func (s *Snapshot) SetOpinions(opinions []Opinion) {
	s.Opinions = slices.Clone(opinions)
	for i := range s.Opinions {
		o := &s.Opinions[i]
		o.Nodes = slices.Clone(o.Nodes)
		slices.SortFunc(o.Nodes, func(a, b NodeOpinion) int { return strings.Compare(a.Node, b.Node) })
	}
	slices.SortFunc(s.Opinions, func(a, b Opinion) int { return strings.Compare(a.Class, b.Class) })
}
