package whatif

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// Relocate moves a gang if all of it has a place again that is better than where it
// is now, and reports whether. The place is the one that it would be given if it came
// now, where nobody's planned start is put off by that, and is kept for it. Disruption
// budgets hold.
func Relocate(s *framework.Session, m Mover, action, why string, better func(*framework.Fit) bool) bool {
	set := []Mover{m}
	if !allowed(budgets(s), set) {
		return false
	}
	real := slices.DeleteFunc(s.Domains(), func(d framework.Domain) bool { return d.Virtual() })
	txn := s.Future(m.Gang)
	take(s, txn, m)
	mark := txn.Checkpoint()
	place := func(starts *framework.Starts) (moves []move) {
		s.WhatIf(txn, func() {
			defer s.Unguard()
			moves = placeAgain(s, set, real, starts)
		})
		return moves
	}
	moves := place(nil)
	if moves == nil || !better(moves[0].fit) {
		return false
	}
	if starts := s.Starts(nil); starts != nil {
		txn.Rollback(mark)
		starts.Without(m.Gang, m.Pods)
		if moves = place(starts); moves == nil || !better(moves[0].fit) {
			return false
		}
	}
	s.Move(m.Gang, moves[0].fit, s.Now.Add(Keep).UnixNano(), moved(s, moves[0], action, why))
	return true
}
