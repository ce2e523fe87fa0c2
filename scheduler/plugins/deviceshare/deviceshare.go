// Package deviceshare says how GPUs and parts of them fill nodes: one node after the
// other, or all alike.
package deviceshare

import (
	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin scores nodes for pods that ask for GPUs. It is configuration alone.
type Plugin struct {
	// Spread prefers nodes with emptier GPUs, otherwise those with fuller ones.
	Spread bool
	Weight int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "deviceshare" }

// Open gives the plugin the cycle's dimensions. Without a weight it has no say.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.Weight == 0 {
		return p
	}
	c := cycle{Plugin: p}
	for d, name := range s.Snapshot.Dims.Names() {
		if snapshot.IsGPU(name) {
			c.gpus = append(c.gpus, d)
		}
	}
	return c
}

// cycle is the plugin in one cycle, with the dimensions that are GPUs.
type cycle struct {
	Plugin
	gpus []int
}

// JudgeRoom scores how full the GPUs become; pods without any do not care.
func (c cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, free func(dim int) int64) (int64, string) {
	var mean fill.Weighted
	for _, d := range c.gpus {
		if class.Request[d] > 0 && n.Total[d] > 0 {
			mean.Add(fill.Full(free(d), n.Total[d], class.Request[d]), 1)
		}
	}
	score := mean.Mean()
	if c.Spread {
		score = fill.Most - score
	}
	return score * c.Weight, ""
}
