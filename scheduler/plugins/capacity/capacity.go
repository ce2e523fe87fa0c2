// Package capacity gives each queue what it declares to deserve. A queue may hold
// more while nobody else wants it, up to its capability, and what it holds beyond
// can be reclaimed. It takes the place of plugin proportion.
package capacity

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Plugin orders queues and takes what they declare. It holds no state.
type Plugin struct {
	// Flat and Levels are as in entitlement.Options.
	Flat   bool
	Levels *int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "capacity" }

// Entitlement takes what the queues declare.
func (p Plugin) Entitlement(o entitlement.Options) entitlement.Options {
	o.Mode, o.Flat, o.Levels = entitlement.Declared, p.Flat, p.Levels
	return o
}

// BoundsQueues has what is let in bounded by what each queue can hold.
func (Plugin) BoundsQueues() {}

// CompareQueues puts the queue of higher priority first, then the one that holds
// the smaller part of what it deserves. Where that is no difference, as between queues
// that declare nothing, it is the one that holds the smaller part of what there is for
// its weight.
func (Plugin) CompareQueues(a, b *entitlement.Queue) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Share(), b.Share()),
		cmp.Compare(resource.Mul(a.Part(), b.Weight), resource.Mul(b.Part(), a.Weight)))
}
