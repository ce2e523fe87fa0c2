package framework

import (
	"math"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Revoker is a plugin that sends pods away for the sake of where they are. It is asked
// once in a cycle, by the first action that does so.
type Revoker interface{ Revoke(s *Session) []Revocation }

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

// SinceRound is how long ago a plugin had its last round that is known, or ever so long
// ago where none is.
func (s *Session) SinceRound(name string) time.Duration {
	if at, ok := s.Snapshot.Rounds[name]; ok {
		return s.Now.Sub(time.Unix(0, at))
	}
	return math.MaxInt64
}

// NoteRound has the plugin's last round be this one. Only plugins that have rounds call
// it: what is remembered is part of every snapshot.
func (s *Session) NoteRound(name string) {
	if !slices.Contains(s.Plan.Rounds, name) {
		s.Plan.Rounds = append(s.Plan.Rounds, name)
	}
}
