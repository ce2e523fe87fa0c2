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
		of := func(may func(*snapshot.Gang) bool) []*whatif.Unit {
			all := whatif.UnitsOf(s, rules, g.Queue, func(v *snapshot.Gang) bool {
				return v.Priority <= g.Priority && !v.ActsOnEviction && may(v)
			})
			return slices.DeleteFunc(all, func(u *whatif.Unit) bool { return u.Whole })
		}
		ask := whatif.Ask{
			Blocked: b, Action: a.Name(), Like: fmt.Sprintf("%s %d", g.Queue, g.Priority),
			Units: func() []*whatif.Unit { return of(func(*snapshot.Gang) bool { return true }) },
			Why: func(v *snapshot.Gang) string {
				if v == g {
					return fmt.Sprintf("%d of its members, which it needs, have no place, and it has others beyond its minimum of %d", len(b.Must), g.Minimum())
				}
				return fmt.Sprintf("it has more than its minimum of %d and the other has not its own", v.Minimum())
			},
		}
		if !slices.ContainsFunc(g.Pods, (*snapshot.Pod).Lives) {
			return ask
		}
		// Others may take what it holds, and it itself only what it can do without.
		others := ask
		others.Allow = func() func(*whatif.Unit) bool { return func(u *whatif.Unit) bool { return u.Gang != g } }
		ask.Like, ask.Alone, ask.Others = g.Key, true, func() whatif.Ask { return others }
		ask.Units = func() []*whatif.Unit {
			units := of(func(v *snapshot.Gang) bool { return v != g })
			own := slices.IndexFunc(units, func(u *whatif.Unit) bool { return u.Gang.Priority >= g.Priority })
			if own < 0 {
				own = len(units)
			}
			return slices.Insert(units, own, whatif.Own(s, rules, b)...)
		}
		return ask
	})
}
