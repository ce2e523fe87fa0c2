// Package framework is what a cycle runs in: the session over one snapshot, the
// extension points that plugins implement, and the search for a domain that
// takes a gang, which all actions share. It is pure: no client, no clock, no
// logging and no goroutine, and nothing decides by the order of a map.
package framework

import (
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Action is one step of a cycle.
type Action interface {
	Name() string
	Run(*Session)
}

// Plugin is one concern. It implements those of the extension points below that
// it needs; the session looks for them once.
type Plugin interface{ Name() string }

// GangOrderer orders gangs of one queue: negative means a is served before b.
type GangOrderer interface {
	CompareGangs(a, b *snapshot.Gang) int
}

// QueueOrderer orders queues: negative means a is served before b.
type QueueOrderer interface {
	CompareQueues(a, b QueueUse, total resource.Vector) int
}

// NodeFilter rules out nodes for a class of pods. Why is "" for an admitted
// node and otherwise a short clause about the node, equal for equal causes.
type NodeFilter interface {
	Filter(c *snapshot.Class, n *snapshot.Node) (why string)
}

// DomainOrderer orders domains that a gang fits: negative means a is better.
type DomainOrderer interface {
	CompareFits(a, b *Fit) int
}

// QueueUse is a queue and what its gangs hold, with this cycle's placements.
type QueueUse struct {
	Queue *snapshot.Queue
	Held  resource.Vector
}

// Pipeline is what a scheduler is made of. Earlier plugins decide before later ones.
type Pipeline struct {
	Actions []Action
	Plugins []Plugin
}
