// Package numaaware places pods where the processors of their containers are on as
// few NUMA nodes as their policy wants, by what Numatopology objects tell: Volcano's
// numa-aware. It is the kubelet that gives processors to containers; a node is taken
// for a pod only if its kubelet follows the same policy.
package numaaware

import (
	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin filters and scores nodes. It is configuration alone.
type Plugin struct{ Weight int64 }

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "numa-aware" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// Filter rules out nodes of another policy than the pod's.
func (Plugin) Filter(c *snapshot.Class, n *snapshot.Node) string {
	switch {
	case c.NUMA == nil, n.Virtual && c.NUMA.Policy == snapshot.NUMABestEffort:
		return ""
	case n.Virtual:
		return "its batch system chooses NUMA nodes itself"
	case n.NUMA == nil || len(n.NUMA.Cells) == 0:
		return "nobody tells of its NUMA nodes"
	case !n.NUMA.Static:
		return "its CPU manager does not give whole processors"
	case n.NUMA.Policy != c.NUMA.Policy:
		return "its topology manager has another policy than " + c.NUMA.Policy
	}
	return ""
}

// Open gives the plugin the cycle.
func (p Plugin) Open(s *framework.Session) framework.Plugin { return cycle{p, s} }

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	session *framework.Session
}

// JudgeRoom refuses nodes whose free processors are too far apart, and prefers those
// where they are on fewer NUMA nodes.
func (c cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, _ func(dim int) int64) (int64, string) {
	if class.NUMA == nil {
		return 0, ""
	}
	at, ok := c.session.Snapshot.Node(n.Name)
	if !ok {
		return 0, ""
	}
	spread, ok := c.session.Txn.NUMASpread(at, class)
	switch {
	case !ok:
		return 0, "its free processors are on too many NUMA nodes for policy " + class.NUMA.Policy
	case spread == 0:
		return 0, ""
	}
	return fill.Most / int64(spread) * c.Weight, ""
}
