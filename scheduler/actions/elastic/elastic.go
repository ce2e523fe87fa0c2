// Package elastic shrinks gangs that grew beyond their minimum when a gang of their
// queue, of no lower priority, has no room for its own minimum: another one, or the same,
// whose workers hold what its leader needs. What less urgent gangs have beyond their
// minimum goes first, then what the gang itself has, then what its equals have: nobody goes
// for the sake of growth, so who gives that up may not get it back. No whole gang goes, nor
// a member of one whose Job restarts or ends something for that. A minimum may take what is
// beyond a minimum and never the other way round, so nothing goes in circles; growing again
// is allocate's business.
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
		g, rules := b.Gang, whatif.Rules{MinRun: a.MinRun}
		like := fmt.Sprintf("%s %d", g.Queue, g.Priority)
		// Others may take what it holds, and it itself only what it can do without.
		holds := slices.ContainsFunc(g.Pods, (*snapshot.Pod).Lives)
		if holds {
			like = g.Key
		}
		return whatif.Ask{
			Blocked: b, Action: a.Name(), Like: like, Alone: holds,
			Units: func() []*whatif.Unit {
				others := whatif.UnitsOf(s, rules, g.Queue, func(v *snapshot.Gang) bool {
					return v != g && v.Priority <= g.Priority && !v.ActsOnEviction
				})
				others = slices.DeleteFunc(others, func(u *whatif.Unit) bool { return u.Whole })
				if !holds {
					return others
				}
				own := slices.IndexFunc(others, func(u *whatif.Unit) bool { return u.Gang.Priority >= g.Priority })
				if own < 0 {
					own = len(others)
				}
				return slices.Insert(others, own, whatif.Own(s, rules, b)...)
			},
			Why: func(v *snapshot.Gang) string {
				if v == g {
					return fmt.Sprintf("%d of its members, which it needs, have no place, and it has others beyond its minimum of %d", len(b.Must), g.Minimum())
				}
				return fmt.Sprintf("it has more than its minimum of %d and the other has not its own", v.Minimum())
			},
		}
	})
}
