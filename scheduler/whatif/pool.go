package whatif

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// holders are the gangs that hold something and may be asked about, in the order of the
// snapshot.
type holders struct {
	gangs   []*snapshot.Gang
	byQueue map[string][]int // as positions in gangs
	at      map[string]int   // position in gangs by key
	// now is what this cycle has done to each, as far as the plan has been looked at: every
	// one is asked about after each claim, and there are many.
	now                      []doing
	placements, claims, sent int
}

// doing is what a cycle does to a gang.
type doing struct {
	busy bool // it is placed, or others are sent away for it
	sent int  // so many of its pods are sent away
}

type holdersKey struct{}

func holdersOf(s *framework.Session) *holders {
	h := s.Note(holdersKey{}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		h := &holders{byQueue: map[string][]int{}, at: map[string]int{}}
		for _, g := range s.Snapshot.Gangs {
			// Whom others went for is left alone for a while: else they went in vain.
			if !g.Held.Zero() && !s.MadeRoomFor(g) {
				h.byQueue[g.Queue] = append(h.byQueue[g.Queue], len(h.gangs))
				h.at[g.Key] = len(h.gangs)
				h.gangs = append(h.gangs, g)
			}
		}
		h.now = make([]doing, len(h.gangs))
		return h
	}).(*holders)
	busy := func(gang string) {
		if at, ok := h.at[gang]; ok {
			h.now[at].busy = true
		}
	}
	for _, p := range s.Plan.Placements[h.placements:] {
		busy(p.Gang)
	}
	for _, c := range s.Plan.Claims[h.claims:] {
		busy(c.Gang)
	}
	for _, g := range s.SentInTurn()[h.sent:] {
		if at, ok := h.at[g.Key]; ok {
			h.now[at].sent++
		}
	}
	h.placements, h.claims, h.sent = len(s.Plan.Placements), len(s.Plan.Claims), len(s.SentInTurn())
	return h
}

// split is what may go of a gang, when so many of it had been sent away.
type split struct {
	sent  int
	units []*Unit
	stay  []*spared
}

type splitsKey struct{ Rules }

// splits is what may go of each gang by some rules, as it was when it was looked at last.
func splits(s *framework.Session, r Rules) map[*snapshot.Gang]split {
	return s.Note(splitsKey{r}, func() any { return map[*snapshot.Gang]split{} }).(map[*snapshot.Gang]split) //nolint:forcetypeassert // only this package makes notes under its own key
}

// pooled is a unit with the position of its gang in the pool.
type pooled struct {
	*Unit
	pos int
}

// pool is the units of all gangs of a queue, or of all queues, that anybody has asked
// about in a cycle, in order. What may go of a gang changes only when some of it goes, and
// there are many gangs and as many questions.
type pool struct {
	s      *framework.Session
	rules  Rules
	from   *holders
	splits map[*snapshot.Gang]split
	gangs  []*snapshot.Gang
	at     []int  // by gang: its position among the holders, nil where it is the same
	known  []int  // by gang: how many of it had been sent away when it was looked at, -1 for not yet
	may    []bool // by gang: who is asked about, between two questions nobody
	units  []pooled
	fresh  []pooled
	stale  map[int]bool      // gangs whose units are in units and are no longer true
	stay   map[int][]*spared // by gang, of few
	spared []*spared         // of those who are asked about
}

type poolKey struct {
	Rules
	queue string
}

// poolOf is the pool of a queue, "" for that of all.
func poolOf(s *framework.Session, r Rules, queue string) *pool {
	from := holdersOf(s)
	return s.Note(poolKey{r, queue}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		p := &pool{s: s, rules: r, from: from, splits: splits(s, r), gangs: from.gangs, stale: map[int]bool{}}
		if queue != "" {
			p.at = from.byQueue[queue]
			p.gangs = make([]*snapshot.Gang, 0, len(p.at))
			for _, i := range p.at {
				p.gangs = append(p.gangs, from.gangs[i])
			}
		}
		p.known, p.may, p.stay = make([]int, len(p.gangs)), make([]bool, len(p.gangs)), map[int][]*spared{}
		for i := range p.known {
			p.known[i] = -1
		}
		return p
	}).(*pool)
}

// ask asks about the gang at a position of the pool. Who is busy is not sent away by this
// cycle.
func (p *pool) ask(at int) {
	pos := at
	if p.at != nil {
		pos = p.at[at]
	}
	now := p.from.now[pos]
	if now.busy {
		return
	}
	p.may[at] = true
	sent := now.sent
	if p.known[at] == sent {
		p.spared = append(p.spared, p.stay[at]...)
		return
	}
	g := p.gangs[at]
	if p.known[at] >= 0 {
		p.stale[at] = true
	}
	p.known[at] = sent
	of, ok := p.splits[g]
	if !ok || of.sent != sent {
		units, stay := p.rules.of(p.s, g)
		of = split{sent, nil, stay}
		for _, u := range units {
			u.pos, u.sent = pos, sent
			of.units = append(of.units, &u)
		}
		for _, sp := range stay {
			sp.pos = pos
		}
		p.splits[g] = of
	}
	if of.stay != nil {
		p.stay[at] = of.stay
	} else {
		delete(p.stay, at)
	}
	p.spared = append(p.spared, of.stay...)
	for _, u := range of.units {
		p.fresh = append(p.fresh, pooled{u, at})
	}
}

// pick lists the units of gangs that were asked about, in order, and forgets who those are.
func (p *pool) pick() []*Unit {
	p.settle()
	n := 0
	for _, u := range p.units {
		if p.may[u.pos] {
			n++
		}
	}
	var out []*Unit
	if n > 0 {
		out = make([]*Unit, 0, n)
	}
	for _, u := range p.units {
		if p.may[u.pos] {
			out = append(out, u.Unit)
		}
	}
	clear(p.may)
	*lastSpared(p.s), p.spared = p.spared, nil
	return out
}

// settle merges what is new and leaves out what is stale.
func (p *pool) settle() {
	if len(p.fresh) == 0 && len(p.stale) == 0 {
		return
	}
	slices.SortFunc(p.fresh, func(a, b pooled) int { return compare(a.Unit, b.Unit) })
	out := make([]pooled, 0, len(p.units)+len(p.fresh))
	in := p.fresh
	for _, u := range p.units {
		if p.stale[u.pos] {
			continue
		}
		for len(in) > 0 && compare(in[0].Unit, u.Unit) < 0 {
			out, in = append(out, in[0]), in[1:]
		}
		out = append(out, u)
	}
	out = append(out, in...)
	p.units, p.fresh = out, nil
	clear(p.stale)
}
