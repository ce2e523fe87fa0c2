// Package shuffle sends away the pods that plugins do not want to be where they are.
// It decides nothing itself; preempt does the same before its own work.
package shuffle

import "github.com/isthmus-hpc/isthmus/scheduler/framework"

// Action is the shuffle action. It holds no state.
type Action struct{}

// Name is the action's name in configuration.
func (Action) Name() string { return "shuffle" }

// Run asks the plugins.
func (Action) Run(s *framework.Session) { s.Revoke() }
