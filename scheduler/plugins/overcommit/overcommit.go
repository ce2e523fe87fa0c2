// Package overcommit keeps PodGroups pending once the gangs that were let in
// want more than the cluster has by a factor: pods that cannot be placed soon are
// not made yet. It reserves nothing, and who is let in competes like all others.
package overcommit

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin bounds what is let in. It is configuration alone.
type Plugin struct {
	// Percent of what there is may be wanted; at least 100.
	Percent int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "overcommit" }

// Open adds up what is held and wanted at the beginning of the cycle.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := &cycle{Plugin: p, dims: s.Snapshot.Dims, total: s.Snapshot.Total, claimed: make(resource.Vector, s.Snapshot.Dims.Len())}
	for _, g := range s.Snapshot.Gangs {
		c.claimed.AddScaled(g.Held, 1)
		if g.Status.Phase != snapshot.GroupPending {
			c.claimed.AddScaled(g.Wants, 1)
		}
	}
	return c
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	dims           *resource.Dims
	total, claimed resource.Vector
}

// Refuse keeps the gang out when its minimum would be too much, unless nothing
// else claims the resource: a lone gang is never kept out. Whom it lets in counts.
func (c *cycle) Refuse(g *snapshot.Gang) *plan.Unschedulable {
	need, _ := c.dims.Vector(g.MinResources)
	for d, a := range need {
		limit := resource.Part(c.total[d], max(c.Percent, 100), 100)
		if a > 0 && c.claimed[d] > 0 && resource.Add(c.claimed[d], a) > limit {
			name := c.dims.Name(d)
			return &plan.Unschedulable{Code: plan.Overcommitted, Message: fmt.Sprintf("gangs that were let in want %s %s and %s is the limit; the gang's minimum is %s",
				plan.Amount(name, c.claimed[d]), name, plan.Amount(name, limit), plan.Amount(name, a))}
		}
	}
	c.claimed.AddScaled(need, 1)
	return nil
}
