// Package priority serves gangs of higher priority first.
package priority

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin orders gangs by priority. It holds no state.
type Plugin struct{}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "priority" }

// OrdersMembers is heard when it is muted.
func (Plugin) OrdersMembers() {}

// CompareGangs puts the higher priority first.
func (Plugin) CompareGangs(a, b *snapshot.Gang) int { return cmp.Compare(b.Priority, a.Priority) }
