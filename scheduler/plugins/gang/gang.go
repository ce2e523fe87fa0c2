// Package gang serves gangs that already hold resources without having their
// minimum before untouched ones: what they hold is wasted until they are whole,
// and two half-placed gangs waiting for each other would be a deadlock.
package gang

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin orders gangs by readiness. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "gang" }

// CompareGangs puts partly placed gangs first and gangs that have their minimum last.
func (Plugin) CompareGangs(a, b *snapshot.Gang) int { return cmp.Compare(rank(a), rank(b)) }

func rank(g *snapshot.Gang) int {
	have := g.Have()
	switch {
	case have >= g.Minimum():
		return 2
	case have > 0:
		return 0
	}
	return 1
}
