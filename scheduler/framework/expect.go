package framework

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// expectation is a gang that waits for room which becomes free by itself: nothing was
// taken from anybody for it. One that was looked at before it may come later to have room
// made, by an action that runs later, and then what becomes free counts for that one.
type expectation struct {
	gang *snapshot.Gang
	was  *plan.Unschedulable // why it waited, nil for nothing that was noted
}

// waited is a copy of why a gang waits.
func (s *Session) waited(g *snapshot.Gang) *plan.Unschedulable {
	u := s.Waits(g)
	if u == nil {
		return nil
	}
	was := *u
	return &was
}

// behind lists the expectations of gangs that were looked at after g.
func (s *Session) behind(g *snapshot.Gang) []expectation {
	if len(s.expected) == 0 {
		return nil
	}
	mine, looked := s.turnOf(g)
	if !looked {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.expected), func(e expectation) bool {
		turn, looked := s.turnOf(e.gang)
		return !looked || turn <= mine
	})
}

// takeExpected has those behind a gang, for which room is kept now, wait as before where
// that is room which they expected.
func (s *Session) takeExpected(g *snapshot.Gang) {
	for _, e := range s.behind(g) {
		if !s.overbooked(e.gang) {
			continue
		}
		s.Unhold(e.gang)
		s.kept[e.gang.Key] = nil
		s.Rehold(e.gang)
		delete(s.claimed, e.gang.Key)
		s.expected = slices.DeleteFunc(s.expected, func(o expectation) bool { return o.gang == e.gang })
		if e.was != nil {
			again := *e.was
			again.Pods = nil
			s.Wait(e.gang, again)
		}
	}
}

// besideStarts is the place of a gang once everything has gone that is going away: f, or,
// where others that come before it have planned starts, one that puts off none of these.
// It is nil where there is none.
func (s *Session) besideStarts(b Blocked, f *Fit) *Fit {
	starts := s.Starts(b.Gang)
	if starts = starts.before(b.Gang); starts == nil {
		return f
	}
	s.WhatIf(s.Future(b.Gang), func() {
		defer s.Unguard()
		starts.Guard(b.Gang)
		f, _ = s.FindDomain(b.Gang, b.Job, b.Must, nil)
	})
	return f
}

// overbooked reports whether more is kept where room is kept for a gang than there is once
// everything has gone that is going away.
func (s *Session) overbooked(g *snapshot.Gang) bool {
	txn := s.fork(s.afterLeaving())
	return slices.ContainsFunc(s.kept[g.Key], func(r keptRoom) bool { return !holds(txn, r) })
}
