// Package fairshare serves those first who have had little of late: a queue, and
// inside a queue a namespace, is compared by the part of the cluster that it holds now
// together with the part that it has held on average. What was held fades with a
// half-life, so that a heavy user waits for a light one, and not for ever.
package fairshare

import (
	"cmp"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin orders queues and gangs by what was held. It is configuration alone: what
// was held is part of the snapshot.
type Plugin struct {
	// Fades is the half-life; 0 is a week. It counts for all queues.
	Fades time.Duration
	// ByNamespace also orders the gangs of a queue, by what their namespaces have held there.
	ByNamespace bool
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "fairshare" }

// HalfLife says that what is held is to be remembered, and for how long.
func (p Plugin) HalfLife() time.Duration { return cmp.Or(p.Fades, fairshare.DefaultHalfLife) }

// Open adds up what queues and namespaces have held.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, total: s.Snapshot.Total, recent: framework.NewRecent(s.Snapshot, s.Ledger, s.Now)}
	if !p.ByNamespace {
		return c
	}
	held := map[[2]string]resource.Vector{}
	for _, g := range s.Snapshot.Gangs {
		at := [2]string{g.Queue, g.Namespace}
		if held[at] == nil {
			held[at] = make(resource.Vector, len(c.total))
		}
		held[at].AddScaled(g.Held, 1)
	}
	return namespaces{c, held}
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	total  resource.Vector
	recent *framework.Recent
}

// CompareQueues puts the queue of higher priority first, then the one that holds and
// has held less for its weight.
func (c cycle) CompareQueues(a, b *entitlement.Queue) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(resource.Mul(c.queue(a), b.Weight), resource.Mul(c.queue(b), a.Weight)))
}

func (c cycle) queue(q *entitlement.Queue) int64 {
	now, _ := q.Held.Dominant(c.total)
	return resource.Add(now, c.recent.Queue(q))
}

// namespaces is the plugin in one cycle when it orders gangs too.
type namespaces struct {
	cycle
	held map[[2]string]resource.Vector // by queue and namespace
}

// CompareGangs puts the gang first whose namespace holds and has held less in the
// queue. What is placed in this cycle does not count: the order of gangs is made once.
func (c namespaces) CompareGangs(a, b *snapshot.Gang) int {
	if a.Queue != b.Queue || a.Namespace == b.Namespace {
		return 0
	}
	return cmp.Compare(c.namespace(a), c.namespace(b))
}

func (c namespaces) namespace(g *snapshot.Gang) int64 {
	now, _ := c.held[[2]string{g.Queue, g.Namespace}].Dominant(c.total)
	return resource.Add(now, c.recent.Namespace(g.Queue, g.Namespace))
}
