// Package sla serves gangs that were promised to wait no longer than a time by
// when that time ends: the earlier end first, gangs without a promise last.
package sla

import (
	"cmp"
	"math"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin orders gangs by their deadline. It holds no state.
type Plugin struct {
	// WaitAtMost, in nanoseconds, is promised to every gang that has no promise
	// of its own; 0 is none.
	WaitAtMost int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "sla" }

// CompareGangs puts the earlier deadline first.
func (p Plugin) CompareGangs(a, b *snapshot.Gang) int {
	return cmp.Compare(p.deadline(a), p.deadline(b))
}

func (p Plugin) deadline(g *snapshot.Gang) int64 {
	wait := g.WaitAtMost
	if wait <= 0 {
		wait = p.WaitAtMost
	}
	if wait <= 0 {
		return math.MaxInt64
	}
	return resource.Add(g.CreatedAt, wait)
}
