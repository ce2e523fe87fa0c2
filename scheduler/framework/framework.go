// Package framework is what a cycle runs in: the session over one snapshot, the
// extension points that plugins implement, and the search for a domain that
// takes a gang, which all actions share. It is pure: no client, no clock, no
// logging and no goroutine, and nothing decides by the order of a map.
package framework

import (
	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
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

// QueueOrderer orders queues right below the same one: negative means a is
// served before b.
type QueueOrderer interface {
	CompareQueues(a, b *entitlement.Queue) int
}

// Entitler chooses what queues deserve. Each is given the choices of those before it.
type Entitler interface {
	Entitlement(entitlement.Options) entitlement.Options
}

// Admitter may keep a pending PodGroup out for now; nil lets it in, as far as this
// plugin is concerned. It is asked once for each in a cycle, and not about those that
// have pods: what it may keep from being is pods.
type Admitter interface {
	Refuse(g *snapshot.Gang) *plan.Unschedulable
}

// QueueBounder has an Admitter bound what is let in not for the cluster alone but for each
// queue by what it can hold.
type QueueBounder interface{ BoundsQueues() }

// Opener is a plugin that needs to know the cycle: Open returns the plugin that
// is asked in this cycle in its place.
type Opener interface {
	Open(*Session) Plugin
}

// Enterer is told whose gang is placed from now on, before any of its pods is
// looked at. Only the answers of such a plugin may depend on the gang, or on what
// has been placed elsewhere; those of others are kept while a node does not change.
type Enterer interface {
	Enter(g *snapshot.Gang)
}

// NodeFilter rules out nodes for a class of pods. Why is "" for an admitted
// node and otherwise a short clause about the node, equal for equal causes.
type NodeFilter interface {
	Filter(c *snapshot.Class, n *snapshot.Node) (why string)
}

// NodeScorer says how well a node suits a class of pods: more is better. The
// scores of all plugins are added up.
type NodeScorer interface {
	Score(c *snapshot.Class, n *snapshot.Node) int64
}

// KinJudge is a NodeFilter or NodeScorer whose answers are the same for classes of one
// Kin: it does not look at how much they ask for, at ports or at other pods. Where all
// plugins are, nodes are looked at once for all these classes.
type KinJudge interface{ JudgesKin() }

// Lasting is a NodeFilter or NodeScorer whose answers depend on the class and the node
// alone, so that they hold in later cycles while these are the same. Lasts returns a value of
// the plugin's own type, of all that else they depend on: of two cycles in which these are
// equal, by ==, the answers are. Anything else, such as what a plugin returns of another that
// is embedded in it, says that they do not last beyond the cycle.
type Lasting interface{ Lasts() any }

// RoomJudge says how well a real node suits one more pod of a class by what is free
// there in the middle of a placement, in amounts by dimension: more is better, and
// scores are added to those of NodeScorer. Why is "" where the pod may go there, and
// otherwise as with NodeFilter. Pods are placed one after the other where a plugin
// asks for this.
type RoomJudge interface {
	JudgeRoom(c *snapshot.Class, n *snapshot.Node, free func(dim int) int64) (score int64, why string)
}

// PeerWeigher says how much it counts what pods prefer about other pods; the last one
// that does is heard.
type PeerWeigher interface {
	PeerWeights() snapshot.PeerWeights
}

// MemberOrderer is a plugin by which members of higher priority are placed first when
// not all of a gang can be. They are unless it is muted.
type MemberOrderer interface{ OrdersMembers() }

// Overlooker says what is not looked at when pods are placed on real nodes; the last
// one that does is heard.
type Overlooker interface {
	Overlooks() snapshot.Overlooked
}

// DomainOrderer orders domains that a gang fits: negative means a is better.
type DomainOrderer interface {
	CompareFits(a, b *Fit) int
}

// Pipeline is what a scheduler is made of. Earlier plugins decide before later ones.
type Pipeline struct {
	Actions []Action
	Plugins []Plugin
	// Profiles are the wishes of single queues, by queue.
	Profiles map[string]Profile
	// Watch, when set, is told when a part of a cycle begins and returns what is
	// called at its end, so that somebody with a clock can tell how long it took.
	// The kinds are Opening (of the session), PluginOpening and Acting.
	Watch func(kind, name string) (end func())
}

// The parts of a cycle that Pipeline.Watch is told of.
const (
	Opening       = "session"
	PluginOpening = "plugin"
	Acting        = "action"
)

func (p Pipeline) watch(kind, name string) func() {
	if p.Watch == nil {
		return func() {}
	}
	return p.Watch(kind, name)
}

// Entitlement is what the pipeline's plugins choose for what queues deserve.
func (p Pipeline) Entitlement() entitlement.Options {
	var out entitlement.Options
	for _, pl := range p.Plugins {
		if m, ok := pl.(Muted); ok {
			pl = m.Plugin
		}
		if x, ok := pl.(Entitler); ok {
			out = x.Entitlement(out)
		}
	}
	return out
}

// Profile is how a queue's gangs are treated. How the cluster is shared among
// queues is no part of it.
type Profile struct {
	// Name tells profiles apart: those of one name are equal.
	Name string
	// Actions serve the queue's gangs; nil is all that run.
	Actions []string
	// Plugins take the place of the pipeline's; nil is those.
	Plugins []Plugin
}

// Muted is a plugin of which some extension points are off: those that are true.
type Muted struct {
	Plugin
	// DomainOrder is that of domains and nodes alike, Domains of domains alone.
	GangOrder, QueueOrder, Filter, DomainOrder, Domains, Admission, Revoking, MemberOrder bool
}
