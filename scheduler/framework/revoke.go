package framework

import (
	"math"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Revoker is a plugin that sends pods away for the sake of where they are. It is asked
// once in a cycle, by the first action that does so.
type Revoker interface{ Revoke(s *Session) []Revocation }

// Rearranger is a plugin that moves gangs for the sake of where they are. It is asked once
// in a cycle, by the action shuffle alone: preempt sends away only who has to go.
type Rearranger interface{ Rearrange(s *Session) }

// Revocation is pods of one gang that have to go.
type Revocation struct {
	Gang *snapshot.Gang
	Pods []*snapshot.Pod
	// Whole says that nothing is left of the gang.
	Whole bool
	// Why is one clause.
	Why string
}

// Revoke sends away whom plugins say.
func (s *Session) Revoke() {
	if s.revoked {
		return
	}
	s.revoked = true
	for _, r := range s.revokers {
		for _, v := range r.Revoke(s) {
			for _, p := range v.Pods {
				if s.Evicted(p) {
					continue
				}
				e := s.Evict(v.Gang, p)
				e.Whole, e.Reason, e.Message = v.Whole, "revoked", "sent back: "+v.Why
				s.Plan.Releases = append(s.Plan.Releases, e)
			}
		}
	}
}

// Rearrange has plugins move whom they will.
func (s *Session) Rearrange() {
	for _, r := range s.rearrangers {
		r.Rearrange(s)
	}
}

// SinceRound is how long ago a plugin had its last round that is known, or ever so long
// ago where none is.
func (s *Session) SinceRound(name string) time.Duration {
	if at, ok := s.Snapshot.Rounds[name]; ok {
		return s.Now.Sub(time.Unix(0, at))
	}
	return math.MaxInt64
}

// Turn is who the plugin looked at last in its last round, "" where that is not known.
func (s *Session) Turn(name string) string { return s.Snapshot.Turns[name] }

// NoteRound has the plugin's last round be this one, and after be whom it looked at
// last, "" where it looked at all. Only plugins that have rounds call it: what is
// remembered is part of every snapshot.
func (s *Session) NoteRound(name, after string) {
	i := slices.IndexFunc(s.Plan.Rounds, func(r plan.Round) bool { return r.Plugin == name })
	if i < 0 {
		i = len(s.Plan.Rounds)
		s.Plan.Rounds = append(s.Plan.Rounds, plan.Round{Plugin: name})
	}
	if after != "" {
		s.Plan.Rounds[i].After = after
	}
}
