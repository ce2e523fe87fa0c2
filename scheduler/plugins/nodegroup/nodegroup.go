// Package nodegroup keeps the pods of a queue to the groups of nodes that the
// queue names, by the node label volcano.sh/nodegroup-name.
package nodegroup

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Label names a node's group.
const Label = "volcano.sh/nodegroup-name"

// Plugin rules out nodes and orders domains. It is configuration alone.
type Plugin struct {
	// Strict keeps the pods of queues that name no group off the nodes of groups.
	Strict bool
	// Level does not prefer some groups to others.
	Level bool
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "nodegroup" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// Lasts says that what the plugin says of a node holds while the node is the same.
func (p Plugin) Lasts() any { return p }

// Filter rules out nodes of groups that the pod's queue does not want, or that
// are not those it needs.
func (p Plugin) Filter(c *snapshot.Class, n *snapshot.Node) string {
	group := n.Labels[Label]
	switch g := c.Groups; {
	case g == nil && p.Strict && group != "":
		return fmt.Sprintf("node group %q is for queues that name it", group)
	case g == nil:
		return ""
	case len(g.Required) > 0 && !slices.Contains(g.Required, group):
		return "not in a node group of the queue"
	case group != "" && slices.Contains(g.Forbidden, group):
		return fmt.Sprintf("the queue keeps away from node group %q", group)
	}
	return ""
}

// Open gives the plugin the cycle's nodes.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.Level {
		return p
	}
	return cycle{p, s.Snapshot}
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	snapshot *snapshot.Snapshot
}

// Lasts is as that of Plugin: the snapshot is for domains.
func (c cycle) Lasts() any { return cycle{Plugin: c.Plugin} }

// weight is that of all that another plugin can say with a weight of 1.
const weight = fill.Most

// Score is for the choice among real nodes: those of groups that the queue prefers
// first, those that it would rather avoid last.
func (c cycle) Score(class *snapshot.Class, n *snapshot.Node) int64 {
	return weight * int64(opinion(class.Groups, n.Labels[Label]))
}

// opinion is 1 for a group that a queue prefers, -1 for one that it would rather avoid.
func opinion(g *snapshot.NodeGroups, group string) int {
	switch {
	case g == nil || group == "":
	case slices.Contains(g.Preferred, group):
		return 1
	case slices.Contains(g.PreferredAway, group):
		return -1
	}
	return 0
}

// CompareFits puts first where more of the pods are in groups that their queue
// prefers, then where fewer are in those it would rather avoid.
func (c cycle) CompareFits(a, b *framework.Fit) int { return cmp.Compare(c.score(b), c.score(a)) }

// score is between -1000 and 1000.
func (c cycle) score(f *framework.Fit) int {
	var sum, pods int
	for _, a := range f.Assigned {
		group := c.snapshot.Nodes[a.Node].Labels[Label]
		for _, p := range a.Pods {
			pods++
			sum += opinion(p.Class.Groups, group)
		}
	}
	if pods == 0 {
		return 0
	}
	return sum * 1000 / pods
}
