// Package consolidate moves gangs so that one that waits has room: what is free in many
// places becomes free in one. Nobody loses its place for it: it is done only if every
// gang that is moved has one again, both are kept until they are taken, and only gangs
// whose owners say that they are preemptable are moved.
//
// Whatever it does, one more gang is placed afterwards and nobody less, so nothing goes
// in circles. No planned start is put off: neither by those who are moved, who begin anew
// and end later, nor by the gang that has its room earlier than others.
package consolidate

import (
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

// Action is the consolidate action.
type Action struct {
	// MinRun is how long a pod runs at least before it is moved; 0 is DefaultMinRun.
	MinRun time.Duration
}

// DefaultMinRun is longer than elsewhere: who is moved has done nothing to deserve it.
const DefaultMinRun = 5 * time.Minute

// mostTried bounds the gangs, unlike each other, that are tried in vain in a cycle.
const mostTried = 8

// Name is the action's name in configuration.
func (Action) Name() string { return "consolidate" }

// Run makes room for the gangs that allocate found none for, in its order.
func (a Action) Run(s *framework.Session) {
	rules := whatif.Rules{MinRun: a.MinRun}
	if rules.MinRun == 0 {
		rules.MinRun = DefaultMinRun
	}
	failed := map[string]bool{}
	var movers []whatif.Mover
	known := false
	for b := range s.BlockedGangs() {
		if b.Gang.Patient || len(failed) >= mostTried || s.StartsWithin(b.Gang, whatif.Keep) {
			continue // who starts as soon by itself is not worth the work of others
		}
		if !s.Affords(b, nil) {
			continue // its queue is full, which says nothing of those like it in others
		}
		like := whatif.Alike(s, b)
		if failed[like] {
			continue
		}
		s.Look(b.Gang)
		if !known {
			known = true
			movers = whatif.Movers(s, rules, func(*snapshot.Gang) bool { return true })
		}
		if len(movers) == 0 && !s.Leaving() {
			return
		}
		if whatif.Rearrange(s, b, movers, a.Name()) {
			known = false // some of them move
		} else {
			failed[like] = true
		}
	}
}
