// Package proportion shares the cluster among queues by weight. What a queue does
// not want goes to the others; the queue that holds the least part of what it
// deserves is served first.
package proportion

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
)

// Plugin orders queues and shares by weight. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "proportion" }

// Entitlement shares by weight.
func (Plugin) Entitlement(o entitlement.Options) entitlement.Options {
	o.Mode = entitlement.ByWeight
	return o
}

// BoundsQueues has what is let in bounded by what each queue can hold.
func (Plugin) BoundsQueues() {}

// CompareQueues puts the queue of higher priority first, then the one that holds
// the smaller part of what it deserves.
func (Plugin) CompareQueues(a, b *entitlement.Queue) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Share(), b.Share()))
}
