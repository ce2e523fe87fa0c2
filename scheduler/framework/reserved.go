package framework

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// reserved is what reservations mean for one cycle.
type reserved struct {
	whole   []wholeNodes
	pieces  []*pieces
	bars    map[string]*bar
	planned bool
	// crossings are the nodes of later reservations on which pieces are kept, by the name of
	// the pieces' reservation; crossed is all of it, which is part of the keys of bars.
	crossings map[string]string
	crossed   string
}

// wholeNodes is a reservation of nodes that is not over, with their positions.
type wholeNodes struct {
	*snapshot.Reservation
	nodes []int
	first map[int][]*snapshot.Reservation // those that go before it on a node, by position; nil for none
}

// pieces is a reservation of an amount that is not over.
type pieces struct {
	*snapshot.Reservation
	class *snapshot.Class
	dims  map[int]int64   // what a piece is of
	owned resource.Vector // what owners hold, with this cycle's placements
	sent  resource.Vector // what of it is going away, nil for nothing
	kept  []keptPieces    // in the cycle's transaction; none before it begins
	later int64           // how many there will be room for when it begins
	cut   string          // which reservation that begins later takes what it has
	after string          // which reservations have what it lacks when it begins
}

type keptPieces struct {
	node  int
	count int64
	later bool // there is the room once everything has gone that is going away
}

// bar is the nodes that reservations keep a gang off, with why, by position.
type bar struct{ why []string }

// reserve looks at the reservations at the beginning of a cycle, and keeps the
// pieces of those that have begun.
func (s *Session) reserve() {
	now := s.Now.UnixNano()
	for i := range s.Snapshot.Reservations {
		r := &s.Snapshot.Reservations[i]
		if r.Phase(now) == snapshot.ReservationExpired {
			continue
		}
		if s.reserved == nil {
			s.reserved = &reserved{bars: map[string]*bar{}}
		}
		if r.Whole() {
			w := wholeNodes{Reservation: r}
			for at, n := range s.Snapshot.Nodes {
				if r.Covers(n) {
					w.nodes = append(w.nodes, at)
				}
			}
			s.reserved.whole = append(s.reserved.whole, w)
			continue
		}
		spec := snapshot.ClassSpec{Requests: resource.MakeList(append(slices.Clone(r.Each), resource.Quantity{Name: "pods", Amount: 1})...)}
		p := &pieces{Reservation: r, class: snapshot.NewClass(spec, spec.Key(), s.Snapshot.Dims), owned: make(resource.Vector, s.Snapshot.Dims.Len()), dims: map[int]int64{}}
		for _, q := range r.Each {
			if d, ok := s.Snapshot.Dims.Index(q.Name); ok && q.Amount > 0 {
				p.dims[d] = q.Amount
			}
		}
		for _, g := range s.Snapshot.Gangs {
			if !r.Owns(g) {
				continue
			}
			p.owned.AddScaled(g.Held, 1)
			for _, pod := range g.Pods {
				if pod.Terminating && pod.Node != "" && !pod.Terminal() {
					p.send(pod)
				}
			}
		}
		s.reserved.pieces = append(s.reserved.pieces, p)
	}
	if s.reserved == nil {
		return
	}
	s.orderReserved()
	for _, p := range s.reserved.pieces {
		if p.Phase(now) == snapshot.ReservationActive {
			s.keepPieces(p)
		}
	}
}

// Barred returns which reservation keeps a gang off a place that it would have
// otherwise, "" for none. It is asked of a gang that found no place.
func (s *Session) Barred(b Blocked) string {
	if s.reserved == nil {
		return ""
	}
	was := s.reserved
	whole, kept := was.whole, []*pieces{}
	mark := s.Txn.Checkpoint()
	defer func() { s.reserved.whole = whole; s.Txn.Rollback(mark) }()
	s.reserved.whole = nil
	for _, p := range was.pieces {
		if len(p.kept) > 0 && !p.Owns(b.Gang) {
			s.putPieces(p, false)
			kept = append(kept, p)
		}
	}
	if s.barless(b) {
		var names []string
		for _, w := range whole {
			if !w.Owns(b.Gang) && s.Now.UnixNano() < w.End && len(w.nodes) > 0 {
				names = append(names, fmt.Sprintf("%s until %s", w.Name, clock(w.End)))
			}
		}
		for _, p := range kept {
			names = append(names, fmt.Sprintf("%s until %s", p.Name, clock(p.End)))
		}
		return strings.Join(names, ", ")
	}
	return ""
}

func (s *Session) barless(b Blocked) bool {
	was := s.opened
	s.opened += "all "
	defer func() { s.opened = was }()
	fit, _ := s.FindDomain(b.Gang, b.Job, b.Must, nil)
	return fit != nil
}

// covered is how many pieces the owners hold already.
func (p *pieces) covered() int64 {
	n := p.Count
	if len(p.class.Missing) > 0 {
		return 0
	}
	for d, a := range p.dims {
		n = min(n, max(p.owned[d], 0)/a)
	}
	return n
}

// Gone is what pods of a gang hold that may go.
type Gone struct {
	Gang *snapshot.Gang
	Asks resource.Vector
}

// Reserved reports whether some that may go count for a reservation of an amount that has
// begun and is not for the gang that they would go for: in their place its room would be
// that one's.
func (s *Session) Reserved(other *snapshot.Gang, gone iter.Seq[Gone]) bool {
	if s.reserved == nil {
		return false
	}
	return slices.ContainsFunc(s.reserved.pieces, func(p *pieces) bool {
		if p.Phase(s.Now.UnixNano()) != snapshot.ReservationActive || p.Owns(other) {
			return false
		}
		without := *p
		without.owned = p.owned.Clone()
		if p.sent != nil {
			without.owned.SubScaled(p.sent, 1)
		}
		before := without.covered()
		for u := range gone {
			if p.Owns(u.Gang) {
				without.owned.SubScaled(u.Asks, 1)
			}
		}
		return without.covered() < before
	})
}

func (p *pieces) keeps() int64 {
	var n int64
	for _, k := range p.kept {
		n += k.count
	}
	return n
}

// keepPieces keeps pieces where there is room and, where that does not suffice, where there
// is once everything has gone that is going away: the room that is kept for others there
// was made beside them.
func (s *Session) keepPieces(p *pieces) {
	need := p.Count - p.covered()
	p.kept = s.placePieces(p, need)
	s.putPieces(p, true)
	defer s.cross(p)
	if need -= p.keeps(); need <= 0 || len(s.going()) == 0 {
		return
	}
	later := &pieces{Reservation: p.Reservation, class: p.class}
	s.WhatIf(s.fork(s.afterLeaving()), func() { later.kept = s.placePieces(p, need) })
	s.putPieces(later, true)
	for _, k := range later.kept {
		k.later = true
		p.kept = append(p.kept, k)
	}
}

// behindLeaving are the pieces that there is room for once everything has gone that is going away.
func (p *pieces) behindLeaving() *pieces {
	out := &pieces{Reservation: p.Reservation, class: p.class}
	for _, k := range p.kept {
		if k.later {
			out.kept = append(out.kept, k)
		}
	}
	return out
}

func (s *Session) putPieces(p *pieces, put bool) {
	for _, k := range p.kept {
		it := snapshot.Item{Class: p.class, Job: "reservation/" + p.Name, Count: k.count}
		if put {
			s.Txn.Keep(k.node, it)
		} else {
			s.Txn.Unkeep(k.node, it)
		}
	}
}

// openReserved lets a gang use the pieces that are kept for it. It is followed by
// closeReserved.
func (s *Session) openReserved(g *snapshot.Gang) {
	if s.reserved == nil {
		return
	}
	for _, p := range s.reserved.pieces {
		if len(p.kept) > 0 && p.Owns(g) {
			s.putPieces(p, false)
			s.opened += p.Name + " "
		}
	}
}

// closeReserved keeps what is left of the pieces again.
func (s *Session) closeReserved(g *snapshot.Gang) {
	if s.reserved == nil || s.opened == "" {
		return
	}
	s.opened = ""
	for _, p := range s.reserved.pieces {
		if len(p.kept) > 0 && p.Owns(g) {
			s.keepPieces(p)
		}
	}
}

// freeReserved lets a gang use the pieces that are kept for it in a what-if.
func (s *Session) freeReserved(g *snapshot.Gang) {
	if s.reserved == nil || s.opened != "" {
		return
	}
	for _, p := range s.reserved.pieces {
		if p.Owns(g) {
			s.putPieces(p, false)
		}
	}
}

func (s *Session) countOwned(g *snapshot.Gang, pod *snapshot.Pod) {
	if s.reserved == nil {
		return
	}
	for _, p := range s.reserved.pieces {
		if p.Owns(g) {
			p.owned.AddScaled(pod.Class.Request, 1)
		}
	}
}

// sendOwned notes that a pod that counts for reservations is sent away.
func (s *Session) sendOwned(g *snapshot.Gang, pod *snapshot.Pod) {
	if s.reserved == nil {
		return
	}
	for _, p := range s.reserved.pieces {
		if p.Owns(g) {
			p.send(pod)
		}
	}
}

func (p *pieces) send(pod *snapshot.Pod) {
	if p.sent == nil {
		p.sent = make(resource.Vector, len(p.owned))
	}
	p.sent.AddScaled(pod.Class.Request, 1)
}

// planReserved protects the starts of the pieces that have not begun: whoever still
// runs then has to fit beside them. It is done once in a cycle, when what is urgent
// has been placed.
func (s *Session) planReserved() {
	if s.reserved == nil || s.reserved.planned {
		return
	}
	s.reserved.planned = true
	pending := slices.DeleteFunc(slices.Clone(s.reserved.pieces), func(p *pieces) bool { return p.Phase(s.Now.UnixNano()) != snapshot.ReservationPending })
	if len(pending) == 0 {
		return
	}
	ends := s.endings()
	slices.SortFunc(pending, func(a, b *pieces) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), snapshot.CompareReservations(a.Reservation, b.Reservation))
	})
	for _, p := range pending {
		txn := s.Txn.Fork()
		for _, e := range ends {
			if e.at <= p.Start {
				txn.Remove(e.node, e.item)
			}
		}
		s.WhatIf(txn, func() {
			for _, o := range s.reserved.pieces { // those that are over by then, or give way
				if len(o.kept) > 0 && (o.End <= p.Start || p.before(o.Reservation)) {
					s.putPieces(o, false)
				}
			}
			for _, h := range s.heads { // those that begin before
				if h.reservation != nil && h.reservation.End > p.Start && !p.before(h.reservation) {
					s.putHead(h)
				}
			}
			h := head{at: p.Start, then: txn, reservation: p.Reservation, job: "reservation/" + p.Name, fit: &Fit{Domain: Domain{Name: "nodes", Node: -1}}}
			had := s.givingWay(p)
			kept := s.placePieces(p, p.Count-p.covered())
			q := &pieces{Reservation: p.Reservation, class: p.class, kept: kept}
			s.putPieces(q, true)
			p.later = q.keeps()
			if short := p.Count - p.covered() - p.later; short > 0 {
				p.after = s.inTheWay(p, short)
			}
			s.giveWay(p, had)
			h.pieces = q
			s.heads = append(s.heads, h)
			s.turn()
		})
	}
}

func (s *Session) putHead(h head) { s.putPieces(h.pieces, true) }
