// Package preempt makes room inside a queue: a gang without room takes that of
// gangs of lower priority, whole gangs or what they have beyond their minimum.
// Priority is the order of who may take from whom, so nothing goes in circles.
package preempt

import (
	"cmp"
	"fmt"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

// Action is the preempt action.
type Action struct {
	// MinRun is how long a pod runs at least before it can be preempted; 0 is the
	// default of a minute.
	MinRun time.Duration
	// SpareWholes has no gang go as a whole, only what it has beyond its minimum.
	SpareWholes bool
	// As is the name by which a configuration asks for it; "" is preempt.
	As string
}

// Name is the action's name in configuration.
func (a Action) Name() string { return cmp.Or(a.As, "preempt") }

// Run sends away whom plugins say, and makes room for the gangs that allocate found
// none for, in its order.
func (a Action) Run(s *framework.Session) {
	s.Revoke()
	whatif.ForEach(s, func(b framework.Blocked) whatif.Ask {
		g := b.Gang
		return whatif.Ask{
			Blocked: b, Action: a.Name(), Like: fmt.Sprintf("%s %d", g.Queue, g.Priority),
			Units: func() []*whatif.Unit {
				return whatif.UnitsOf(s, whatif.Rules{MinRun: a.MinRun, SpareWholes: a.SpareWholes}, g.Queue, func(v *snapshot.Gang) bool {
					return v.Priority < g.Priority
				})
			},
			Lasts: func() bool { return true }, // nobody's priority changes
			Why: func(v *snapshot.Gang) string {
				return fmt.Sprintf("its priority is %d and %d takes precedence in queue %s", v.Priority, g.Priority, g.Queue)
			},
		}
	})
}
