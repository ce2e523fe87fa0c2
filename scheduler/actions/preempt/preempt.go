// Package preempt makes room inside a queue: a gang without room takes that of
// gangs of lower priority, whole gangs or what they have beyond their minimum, and of its
// own members those of lower priority than what it needs.
// Priority is the order of who may take from whom, so nothing goes in circles.
package preempt

import (
	"cmp"
	"fmt"
	"slices"
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
	// SpareOwn has no gang give up members for others of its own.
	SpareOwn bool
	// As is the name by which a configuration asks for it; "" is preempt.
	As string
}

// Name is the action's name in configuration.
func (a Action) Name() string { return cmp.Or(a.As, "preempt") }

// Run sends away whom plugins say, and makes room for the gangs that allocate found
// none for, in its order.
func (a Action) Run(s *framework.Session) {
	s.Revoke()
	rules := whatif.Rules{MinRun: a.MinRun, SpareWholes: a.SpareWholes}
	whatif.ForEach(s, func(b framework.Blocked) whatif.Ask {
		g := b.Gang
		others := func() []*whatif.Unit {
			return whatif.UnitsOf(s, rules, g.Queue, func(v *snapshot.Gang) bool {
				return v.Priority < g.Priority
			})
		}
		ask := whatif.Ask{
			Blocked: b, Action: a.Name(), Like: fmt.Sprintf("%s %d", g.Queue, g.Priority), TellSpared: true,
			Units: others,
			Lasts: func() bool { return true }, // nobody's priority changes
			Why: func(v *snapshot.Gang) string {
				return fmt.Sprintf("its priority is %d and %d takes precedence in queue %s", v.Priority, g.Priority, g.Queue)
			},
		}
		if a.SpareOwn {
			return ask
		}
		if own := whatif.OwnBelow(s, rules, b); len(own) > 0 {
			return withOwn(ask, own)
		}
		return ask
	})
}

// withOwn has a gang give up members as well, before others go as a whole.
func withOwn(ask whatif.Ask, own []*whatif.Unit) whatif.Ask {
	out, b := ask, ask.Blocked
	out.Like, out.Alone, out.Others = b.Gang.Key, true, func() whatif.Ask { return ask }
	out.Units = func() []*whatif.Unit {
		others := ask.Units()
		wholes := slices.IndexFunc(others, func(u *whatif.Unit) bool { return u.Whole })
		if wholes < 0 {
			wholes = len(others)
		}
		return slices.Insert(others, wholes, own...)
	}
	out.Why = func(v *snapshot.Gang) string {
		if v == b.Gang {
			return whyOwn(b)
		}
		return ask.Why(v)
	}
	return out
}

// whyOwn says why a gang gives up members for others of its own.
func whyOwn(b framework.Blocked) string {
	return fmt.Sprintf("%d of its members have no place, and it has others of lower priority beyond its minimum of %d", len(b.Must), b.Gang.Minimum())
}
