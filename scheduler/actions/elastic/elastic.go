// Package elastic shrinks gangs that grew beyond their minimum when another gang
// of their queue, of no lower priority, has no room for its own minimum. No whole
// gang goes, nor a member of one whose Job restarts or ends something for that. A minimum may take what is beyond another's and never the other way
// round, so nothing goes in circles; growing again is allocate's business.
package elastic

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

// Action is the elastic action.
type Action struct {
	// MinRun is how long a pod runs at least before its gang may be shrunk by it; 0
	// is the default of a minute.
	MinRun time.Duration
}

// Name is the action's name in configuration.
func (Action) Name() string { return "elastic" }

// Run shrinks gangs for those that allocate found no room for, in its order.
func (a Action) Run(s *framework.Session) {
	whatif.ForEach(s, func(b framework.Blocked) whatif.Ask {
		g := b.Gang
		return whatif.Ask{
			Blocked: b, Action: a.Name(), Like: fmt.Sprintf("%s %d", g.Queue, g.Priority),
			Units: func() []*whatif.Unit {
				units := whatif.UnitsOf(s, whatif.Rules{MinRun: a.MinRun}, g.Queue, func(v *snapshot.Gang) bool {
					return v.Priority <= g.Priority && !v.ActsOnEviction
				})
				// A gang that lacks its minimum has nothing beyond it: never the one that asks.
				return slices.DeleteFunc(units, func(u *whatif.Unit) bool { return u.Whole })
			},
			Why: func(v *snapshot.Gang) string {
				return fmt.Sprintf("it has more than its minimum of %d and the other has not its own", v.Minimum())
			},
		}
	})
}
