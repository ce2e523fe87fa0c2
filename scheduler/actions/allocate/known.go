package allocate

import (
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// known is why gangs wait that found no room for their minimum, as it is told of those that
// are like them. A gang that finds none changes nothing, so it holds until another does
// something.
type known struct {
	of     map[*framework.Twin]verdict
	turned int // when the first of these was found, as Session.Turned
}

// verdict is why a gang waits, and whether other actions may make room for it.
type verdict struct {
	why     plan.Unschedulable
	blocked bool
}

// tell says of a gang what was found of one like it, and reports whether there is any.
func (k *known) tell(s *framework.Session, g *snapshot.Gang) bool {
	if len(k.of) == 0 {
		return false
	}
	if k.turned != s.Turned() {
		clear(k.of)
		return false
	}
	t := s.TwinOf(g)
	v, ok := k.of[t]
	if !ok || s.Waits(g) != nil {
		return false
	}
	s.Look(g)
	if v.blocked {
		s.Block(framework.Blocked{Gang: g, Job: framework.NewJob(g, g.First()), Must: g.First(), Twin: t})
	}
	s.Wait(g, v.why)
	return true
}

// look tries to place the minimum of one gang, beside the planned starts of others, and
// says what it may get besides. What is found of it is kept for others like it.
func (k *known) look(s *framework.Session, g *snapshot.Gang) *more {
	if k.tell(s, g) {
		return nil
	}
	turned, blocked, first := s.Turned(), s.BlockedCount(), s.Waits(g) == nil
	s.Guard(g)
	m := placeOwn(s, g)
	s.Unguard()
	if u := s.Waits(g); m == nil && u != nil && first && turned == s.Turned() {
		if t := s.TwinOf(g); t != nil {
			if k.of == nil {
				k.of = map[*framework.Twin]verdict{}
			}
			k.of[t], k.turned = verdict{why: *u, blocked: s.BlockedCount() > blocked}, turned
		}
	}
	return m
}
