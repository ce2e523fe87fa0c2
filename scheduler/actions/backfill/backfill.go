// Package backfill lets gangs pass those before them only where that puts off
// nobody's planned start. The first gangs of each queue that have no room get the
// earliest start that the ends of what runs allow, and the place for it; whoever
// comes later has to be done by then, or to fit beside them.
//
// With one head a queue this is EASY backfill, with many it is conservative.
// Without the action in the pipeline whatever fits goes, and a large gang may
// wait for ever behind small ones.
//
// The action says how; allocate, which knows the order, does it. Pods that ask
// for nothing need no action of their own: they fit everywhere.
package backfill

import "github.com/isthmus-hpc/isthmus/scheduler/framework"

// Action is the backfill action.
type Action struct {
	// Heads is how many gangs of each queue have a planned start; 0 is 1.
	Heads int
	// Conservative plans the starts of all gangs, up to a bound.
	Conservative bool
	// PassUnknown lets gangs pass of which nobody knows how long they run, as Volcano
	// does; they may then put a planned start off.
	PassUnknown bool
}

// most bounds the planned starts, each of which costs a search for every gang
// that comes after it.
const most = 64

// Name is the action's name in configuration.
func (Action) Name() string { return "backfill" }

// Run does nothing by itself: see the package.
func (Action) Run(*framework.Session) {}

// Backfill implements framework.Backfiller.
func (a Action) Backfill() framework.Backfill {
	if a.Conservative {
		return framework.Backfill{Heads: most, Most: most, PassUnknown: a.PassUnknown}
	}
	return framework.Backfill{Heads: max(a.Heads, 1), Most: most, PassUnknown: a.PassUnknown}
}
