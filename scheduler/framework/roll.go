package framework

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// roll finds the pods of a gang by what nominations name them by: a look at all of them
// for each would cost the square of their number.
type roll struct {
	byUID, byName map[string]*snapshot.Pod // the first of each
}

// rollOf is the roll of a gang, made when it is asked for first.
func (s *Session) rollOf(g *snapshot.Gang) *roll {
	r := s.rolls[g]
	if r == nil {
		r = &roll{make(map[string]*snapshot.Pod, len(g.Pods)), make(map[string]*snapshot.Pod, len(g.Pods))}
		for _, p := range g.Pods {
			if r.byUID[p.UID] == nil {
				r.byUID[p.UID] = p
			}
			if r.byName[p.Name] == nil {
				r.byName[p.Name] = p
			}
		}
		if s.rolls == nil {
			s.rolls = map[*snapshot.Gang]*roll{}
		}
		s.rolls[g] = r
	}
	return r
}

// Without takes those that are gone out of pods, in place.
func Without(pods, gone []*snapshot.Pod) []*snapshot.Pod {
	if len(gone) < 8 {
		return slices.DeleteFunc(pods, func(p *snapshot.Pod) bool { return slices.Contains(gone, p) })
	}
	out := make(map[*snapshot.Pod]bool, len(gone))
	for _, p := range gone {
		out[p] = true
	}
	return slices.DeleteFunc(pods, func(p *snapshot.Pod) bool { return out[p] })
}
