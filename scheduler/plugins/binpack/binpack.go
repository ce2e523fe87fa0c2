// Package binpack prefers the domain where a gang leaves the smallest remainder
// on the hosts it takes, then the domain that is fullest: large holes stay whole.
// With weights it also prefers, among real nodes, those that become fuller.
package binpack

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Resource is one that nodes are filled up with.
type Resource struct {
	Name   string
	Weight int64
}

// Plugin orders domains and scores nodes. It is configuration alone.
type Plugin struct {
	// Weight is what a full node counts; 0 leaves the order of nodes as it is,
	// which is the one with least free first.
	Weight    int64
	Resources []Resource
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "binpack" }

// CompareFits puts the smaller remainder first.
func (Plugin) CompareFits(a, b *framework.Fit) int {
	return cmp.Or(cmp.Compare(a.Left, b.Left), cmp.Compare(a.Rest, b.Rest))
}

// Open gives the plugin the cycle's dimensions.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.Weight == 0 {
		return p
	}
	c := cycle{Plugin: p, weights: make([]int64, s.Snapshot.Dims.Len())}
	for _, r := range p.Resources {
		if d, ok := s.Snapshot.Dims.Index(r.Name); ok {
			c.weights[d] = r.Weight
		}
	}
	return c
}

// cycle is the plugin in one cycle, with the weight of each dimension.
type cycle struct {
	Plugin
	weights []int64
}

// JudgeRoom is the mean of how full the node becomes of what the pod asks for.
func (c cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, free func(dim int) int64) (int64, string) {
	var mean fill.Weighted
	for d, w := range c.weights {
		if w > 0 && class.Request[d] > 0 {
			mean.Add(fill.Full(free(d), n.Total[d], class.Request[d]), w)
		}
	}
	return mean.Mean() * c.Weight, ""
}
