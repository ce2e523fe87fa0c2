package whatif

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// pool is the units of all gangs that anybody has asked about in a cycle, in order. What
// may go of a gang changes only when some of it goes, and there are many gangs and as
// many questions.
type pool struct {
	s     *framework.Session
	rules Rules
	known []int  // by gang: how many of it had been sent away when it was looked at, -1 for not yet
	may   []bool // by gang: who is asked about, between two questions nobody
	units []*Unit
	fresh []*Unit
	stale map[int]bool // gangs whose units are in units and are no longer true
}

type poolKey struct{ Rules }

func poolOf(s *framework.Session, r Rules) *pool {
	return s.Note(poolKey{r}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		p := &pool{s: s, rules: r, known: make([]int, len(s.Snapshot.Gangs)), may: make([]bool, len(s.Snapshot.Gangs)), stale: map[int]bool{}}
		for i := range p.known {
			p.known[i] = -1
		}
		return p
	}).(*pool)
}

// ask asks about the gang at a position of the snapshot's.
func (p *pool) ask(at int) {
	p.may[at] = true
	g := p.s.Snapshot.Gangs[at]
	sent := p.s.Sent(g)
	if p.known[at] == sent {
		return
	}
	if p.known[at] >= 0 {
		p.stale[at] = true
	}
	p.known[at] = sent
	for _, u := range p.rules.of(p.s, g) {
		u.gang = at
		p.fresh = append(p.fresh, &u)
	}
}

// pick lists the units of gangs that were asked about, in order, and forgets who those are.
func (p *pool) pick() []*Unit {
	p.settle()
	n := 0
	for _, u := range p.units {
		if p.may[u.gang] {
			n++
		}
	}
	var out []*Unit
	if n > 0 {
		out = make([]*Unit, 0, n)
	}
	for _, u := range p.units {
		if p.may[u.gang] {
			out = append(out, u)
		}
	}
	clear(p.may)
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
		if p.stale[u.gang] {
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
