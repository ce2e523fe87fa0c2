// Package drf serves by dominant resource fairness: whoever holds the smallest
// part of the cluster, of the resource of which he holds most, is served first.
// Inside a queue that is among gangs, or among namespaces; between queues, with
// their weights, when hierarchy is on.
package drf

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin orders gangs by what they hold. It is configuration alone.
type Plugin struct {
	// Hierarchy also orders queues, and reads Volcano's hierarchy annotations.
	Hierarchy bool
	// ByNamespace compares what a namespace's gangs hold in the queue together;
	// otherwise each gang is compared by itself.
	ByNamespace bool
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "drf" }

// Entitlement reads the annotations when hierarchy is on.
func (p Plugin) Entitlement(o entitlement.Options) entitlement.Options {
	o.Annotations = o.Annotations || p.Hierarchy
	return o
}

// Open adds up what is held at the beginning of the cycle.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, total: s.Snapshot.Total}
	if p.ByNamespace {
		c.held = map[[2]string]resource.Vector{}
		for _, g := range s.Snapshot.Gangs {
			at := [2]string{g.Queue, g.Namespace}
			if c.held[at] == nil {
				c.held[at] = make(resource.Vector, len(c.total))
			}
			c.held[at].AddScaled(g.Held, 1)
		}
	}
	if p.Hierarchy {
		return queues{c}
	}
	return c
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	total resource.Vector
	held  map[[2]string]resource.Vector // by queue and namespace
}

// CompareGangs puts the smaller dominant share first. What is placed in this
// cycle does not count: the order of gangs is made once.
func (c cycle) CompareGangs(a, b *snapshot.Gang) int { return cmp.Compare(c.share(a), c.share(b)) }

func (c cycle) share(g *snapshot.Gang) int64 {
	held := g.Held
	if c.held != nil {
		held = c.held[[2]string{g.Queue, g.Namespace}]
	}
	s, _ := held.Dominant(c.total)
	return s
}

// queues is the plugin in one cycle when it orders queues too.
type queues struct{ cycle }

// CompareQueues puts the smaller dominant share for its weight first.
func (c queues) CompareQueues(a, b *entitlement.Queue) int {
	sa, _ := a.Held.Dominant(c.total)
	sb, _ := b.Held.Dominant(c.total)
	return cmp.Compare(resource.Mul(sa, b.Weight), resource.Mul(sb, a.Weight))
}
