// Package usage keeps pods off nodes that are busier than a threshold, and prefers
// those that are less busy, by what was measured there rather than by what pods ask
// for: Volcano's usage.
package usage

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// whole is all of a node in the unit of loads.
const whole = 1000

// Fresh is how old a measurement may be, in nanoseconds: with an older one a node
// is as one that nobody has measured, which is neither ruled out nor preferred.
const Fresh = 5 * 60 * 1e9

// Plugin filters and scores nodes. It is configuration alone.
type Plugin struct {
	Weight      int64
	CPU, Memory int64 // what each counts in the score
	// MostCPU and MostMemory are the thresholds, in thousandths; 0 rules no node out.
	MostCPU, MostMemory int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "usage" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// Open gives the plugin what was measured.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, loads: make(map[string]snapshot.Load, len(s.Snapshot.Loads))}
	now := s.Now.UnixNano()
	for _, l := range s.Snapshot.Loads {
		if now-l.At <= Fresh {
			c.loads[l.Node] = l
		}
	}
	return c
}

// cycle is the plugin in one cycle, with the measurements that count.
type cycle struct {
	Plugin
	loads map[string]snapshot.Load
}

// Filter rules out nodes above a threshold.
func (c cycle) Filter(_ *snapshot.Class, n *snapshot.Node) string {
	l, ok := c.loads[n.Name]
	switch {
	case !ok:
	case c.MostCPU > 0 && l.CPU > c.MostCPU:
		return fmt.Sprintf("its processors are busier than %d %%", c.MostCPU*100/whole)
	case c.MostMemory > 0 && l.Memory > c.MostMemory:
		return fmt.Sprintf("its memory is fuller than %d %%", c.MostMemory*100/whole)
	}
	return ""
}

// Score is the weighted mean of what is idle.
func (c cycle) Score(_ *snapshot.Class, n *snapshot.Node) int64 {
	l, ok := c.loads[n.Name]
	if !ok {
		return 0
	}
	var mean fill.Weighted
	mean.Add(idle(l.CPU), c.CPU)
	mean.Add(idle(l.Memory), c.Memory)
	return mean.Mean() * c.Weight
}

func idle(load int64) int64 { return (whole - min(max(load, 0), whole)) * fill.Most / whole }
