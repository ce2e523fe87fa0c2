// Package shuffle sends away the pods that plugins do not want to be where they are, and
// has plugins move gangs. It decides nothing itself. Preempt does the first as well,
// before its own work, and moves nobody.
package shuffle

import "github.com/isthmus-hpc/isthmus/scheduler/framework"

// Action is the shuffle action. It holds no state.
type Action struct{}

// Name is the action's name in configuration.
func (Action) Name() string { return "shuffle" }

// Run asks the plugins.
func (Action) Run(s *framework.Session) {
	s.Revoke()
	s.Rearrange()
}
