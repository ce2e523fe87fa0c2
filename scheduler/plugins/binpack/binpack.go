// Package binpack prefers the domain where a gang leaves the smallest remainder
// on the hosts it takes, then the domain that is fullest: large holes stay whole.
package binpack

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// Plugin orders domains. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "binpack" }

// CompareFits puts the smaller remainder first.
func (Plugin) CompareFits(a, b *framework.Fit) int {
	return cmp.Or(cmp.Compare(a.Left, b.Left), cmp.Compare(a.Rest, b.Rest))
}
