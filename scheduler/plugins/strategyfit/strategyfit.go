// Package strategyfit fills nodes up with some resources and spreads others, and
// keeps nodes with scarce resources for those who ask for them: Volcano's
// resource-strategy-fit.
package strategyfit

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Strategy is what is done with one resource.
type Strategy struct {
	Resource string
	// Spread prefers nodes that have more of it free, otherwise those with less.
	Spread bool
	Weight int64
}

// Scarce is a resource that nodes are kept for.
type Scarce struct {
	Resource string
	Weight   int64
}

// Proportion is how much of another resource is left for each unit of a scarce
// one that is still free: pods that do not ask for the scarce one leave that much.
type Proportion struct {
	Scarce, Other string
	// Each is for one unit, in the other's own unit (cpu in thousandths, memory in bytes).
	Each int64
}

// Plugin scores nodes and rules some out. It is configuration alone.
type Plugin struct {
	Weight      int64
	Strategies  []Strategy
	ScarceBy    int64 // weight of all that is scarce
	Scarce      []Scarce
	Proportions []Proportion
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "resource-strategy-fit" }

// Open gives the plugin the dimensions of the cycle.
func (p Plugin) Open(s *framework.Session) framework.Plugin { return cycle{p, s.Snapshot.Dims} }

type cycle struct {
	Plugin
	dims *resource.Dims
}

// JudgeRoom scores the weighted mean over the resources that the pod asks for, and
// what the node lacks of scarce ones that it does not. It refuses pods without a
// scarce resource what the free part of it will need.
func (c cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, free func(dim int) int64) (int64, string) {
	for _, p := range c.Proportions {
		scarce, ok := c.dims.Index(p.Scarce)
		other, known := c.dims.Index(p.Other)
		if !ok || !known || class.Request[scarce] > 0 || class.Request[other] == 0 || n.Total[scarce] == 0 {
			continue
		}
		if left := resource.Sub(free(other), class.Request[other]); left < resource.Mul(max(free(scarce), 0), p.Each) {
			return 0, fmt.Sprintf("keeps %s for its free %s", p.Other, p.Scarce)
		}
	}
	var fit, spared fill.Weighted
	for _, st := range c.Strategies {
		d, ok := c.dims.Index(st.Resource)
		if !ok || class.Request[d] == 0 || n.Total[d] == 0 {
			continue
		}
		score := fill.Full(free(d), n.Total[d], class.Request[d])
		if st.Spread {
			score = fill.Most - score
		}
		fit.Add(score, st.Weight)
	}
	for _, sc := range c.Scarce {
		if d, ok := c.dims.Index(sc.Resource); ok && class.Request[d] == 0 {
			score := int64(fill.Most)
			if n.Total[d] > 0 {
				score = 0
			}
			spared.Add(score, sc.Weight)
		}
	}
	return fit.Mean()*c.Weight + spared.Mean()*c.ScarceBy, ""
}
