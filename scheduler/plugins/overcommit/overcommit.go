// Package overcommit keeps PodGroups pending once the gangs before them want more than
// there is by a factor: pods that cannot be placed soon are not made yet. It reserves
// nothing, and who is let in competes like all others.
//
// A gang is counted against those before it alone, and never kept out where it would be
// placed, or where room would be made for it, if it had pods.
package overcommit

import (
	"fmt"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin bounds what is let in. It is configuration alone.
type Plugin struct {
	// Percent of what there is, and of what a queue can hold, may be wanted; at least 100.
	Percent int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "overcommit" }

// Open notes what queues hold and deserve at the beginning of the cycle.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	return &cycle{percent: max(p.Percent, 100), books: booksOf(s)}
}

// cycle is the plugin in one cycle.
type cycle struct {
	percent int64
	books   *books
}

// Name is the plugin's name in configuration.
func (*cycle) Name() string { return Plugin{}.Name() }

// Refuse keeps the gang out when it would be too much beside those before it, unless none
// of these waits in its queue or there is room that none of them is about to take.
func (c *cycle) Refuse(g *snapshot.Gang) *plan.Unschedulable {
	b := c.books
	b.settle()
	need := b.needOf(g)
	if need.Zero() {
		return nil
	}
	v := b.before(g, need)
	if v == nil || v.waiting == 0 || v.roomFor(need) {
		return nil
	}
	for _, at := range v.steps {
		for d, a := range need {
			limit, bound := b.limit(at.node, d)
			if a <= 0 || !bound || resource.Add(at.load[d], a) <= resource.Part(limit, c.percent, 100) {
				continue
			}
			name := b.dims.Name(d)
			return &plan.Unschedulable{Code: plan.Overcommitted, Message: fmt.Sprintf(
				"%s %s are held and wanted by gangs%s that count before it, and %s may be, %d %% of what %s; its minimum is %s, and %d that were let in wait before it in its queue",
				plan.Amount(name, at.load[d]), name, at.node.whose(), plan.Amount(name, resource.Part(limit, c.percent, 100)), c.percent, at.node.has(), plan.Amount(name, a), v.waiting)}
		}
	}
	return nil
}

func (n *node) whose() string {
	if n.queue.Root() {
		return ""
	}
	return fmt.Sprintf(" of queue %q", n.queue.Name)
}

func (n *node) has() string {
	if n.queue.Root() {
		return "there is"
	}
	return "it can hold"
}

// quotaOnly reports names that only resource quotas know.
func quotaOnly(name string) bool {
	return strings.HasPrefix(name, "requests.") || strings.HasPrefix(name, "limits.") || strings.HasPrefix(name, "count/")
}
