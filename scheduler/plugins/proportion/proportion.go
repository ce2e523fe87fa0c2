// Package proportion shares the cluster among queues by weight: the queue that
// holds least of its share is served first.
package proportion

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// Plugin orders queues. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "proportion" }

// maxWeight is the largest weight of a queue, as in the Queue's schema. A share
// times it still fits an integer.
const maxWeight = 65535

// CompareQueues puts the queue of higher priority first, then the one whose
// dominant share divided by its weight is smaller.
func (Plugin) CompareQueues(a, b framework.QueueUse, total resource.Vector) int {
	sa, _ := a.Held.Dominant(total)
	sb, _ := b.Held.Dominant(total)
	wa, wb := weight(a), weight(b)
	return cmp.Or(cmp.Compare(b.Queue.Priority, a.Queue.Priority), cmp.Compare(sa*wb, sb*wa))
}

func weight(u framework.QueueUse) int64 { return min(max(u.Queue.Weight, 1), maxWeight) }
