// Package locality prefers the domain where a gang is expected to start earlier,
// and among real nodes the one whose pods are closer together.
package locality

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// Plugin orders domains. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "locality" }

// grain is how many seconds of expected waiting make a difference: an estimate
// of a batch system is no better, and fuller domains count for more than seconds.
const grain = 60

// CompareFits puts the earlier start first, then the closer nodes.
func (Plugin) CompareFits(a, b *framework.Fit) int {
	if c := cmp.Compare(a.Start/grain, b.Start/grain); c != 0 || a.Domain.Virtual() || b.Domain.Virtual() {
		return c
	}
	return cmp.Compare(a.Tier, b.Tier)
}
