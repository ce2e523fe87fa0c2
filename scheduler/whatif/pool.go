package whatif

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// pool is the units of all gangs that anybody has asked about in a cycle, in order. What
// may go of a gang changes only when some of it goes, and there are many gangs and as
// many questions.
type pool struct {
	s     *framework.Session
	rules Rules
	known map[*snapshot.Gang]int // how many of a gang had been sent away when it was looked at
	units []*Unit
	fresh []*Unit
	stale map[*snapshot.Gang]bool // whose units are in units and are no longer true
}

type poolKey struct{ Rules }

func poolOf(s *framework.Session, r Rules) *pool {
	return s.Note(poolKey{r}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		return &pool{s: s, rules: r, known: map[*snapshot.Gang]int{}, stale: map[*snapshot.Gang]bool{}}
	}).(*pool)
}

// ask sees to it that the units of a gang are known.
func (p *pool) ask(g *snapshot.Gang) {
	sent, known := p.known[g]
	if known && sent == p.s.Sent(g) {
		return
	}
	if known {
		p.stale[g] = true
	}
	p.known[g] = p.s.Sent(g)
	for _, u := range p.rules.of(p.s, g) {
		p.fresh = append(p.fresh, &u)
	}
}

// pick lists the units of gangs that were asked for, in order.
func (p *pool) pick(may map[*snapshot.Gang]bool) []Unit {
	p.settle()
	if len(may) == 0 {
		return nil
	}
	out := make([]Unit, 0, len(p.units))
	for _, u := range p.units {
		if may[u.Gang] {
			out = append(out, *u)
		}
	}
	return out
}

// settle merges what is new and leaves out what is stale.
func (p *pool) settle() {
	if len(p.fresh) == 0 && len(p.stale) == 0 {
		return
	}
	slices.SortFunc(p.fresh, compare)
	out := make([]*Unit, 0, len(p.units)+len(p.fresh))
	in := p.fresh
	for _, u := range p.units {
		if p.stale[u.Gang] {
			continue
		}
		for len(in) > 0 && compare(in[0], u) < 0 {
			out, in = append(out, in[0]), in[1:]
		}
		out = append(out, u)
	}
	out = append(out, in...)
	p.units, p.fresh = out, nil
	clear(p.stale)
}
