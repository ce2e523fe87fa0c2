package framework

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Of reservations for different owners that want the same at the same time, the one that
// was made first has it. A later one has whole nodes for the rest of its time, and pieces
// elsewhere, and says who goes before it. Pieces are kept on a node that a later reservation
// names only where there is no other room for them.

// before reports whether a reservation goes before another.
func (p *pieces) before(o *snapshot.Reservation) bool {
	return snapshot.CompareReservations(p.Reservation, o) < 0
}

// orderReserved puts those that go first first, and finds who goes before whom on which node.
func (s *Session) orderReserved() {
	all := s.reserved.whole
	slices.SortFunc(all, func(a, b wholeNodes) int { return snapshot.CompareReservations(a.Reservation, b.Reservation) })
	slices.SortFunc(s.reserved.pieces, func(a, b *pieces) int { return snapshot.CompareReservations(a.Reservation, b.Reservation) })
	for i := range all {
		w := &all[i]
		for _, o := range all[:i] {
			if !o.Meets(w.Reservation) || o.OwnsAll(w.Reservation) && w.OwnsAll(o.Reservation) {
				continue
			}
			for _, at := range w.nodes {
				if _, both := slices.BinarySearch(o.nodes, at); both {
					w.yield(at, o.Reservation)
				}
			}
		}
	}
}

// yield notes who goes before a reservation on one of its nodes.
func (w *wholeNodes) yield(at int, to *snapshot.Reservation) {
	if w.first == nil {
		w.first = map[int][]*snapshot.Reservation{}
	}
	w.first[at] = append(w.first[at], to)
}

// cross notes on which nodes of later reservations pieces are kept now.
func (s *Session) cross(p *pieces) {
	crossed := ""
	for i := range s.reserved.whole {
		w := &s.reserved.whole[i]
		for at, first := range w.first {
			if first = slices.DeleteFunc(first, func(o *snapshot.Reservation) bool { return o == p.Reservation }); len(first) > 0 {
				w.first[at] = first
			} else {
				delete(w.first, at)
			}
		}
		if !p.before(w.Reservation) || w.OwnsAll(p.Reservation) {
			continue
		}
		for _, k := range p.kept {
			if _, both := slices.BinarySearch(w.nodes, k.node); both && !slices.Contains(w.first[k.node], p.Reservation) {
				w.yield(k.node, p.Reservation)
				crossed += fmt.Sprintf("%d:%d ", i, k.node)
			}
		}
	}
	r := s.reserved
	if r.crossings[p.Name] == crossed {
		return
	}
	if r.crossings == nil {
		r.crossings = map[string]string{}
	}
	r.crossings[p.Name], r.crossed = crossed, ""
	for _, name := range slices.Sorted(maps.Keys(r.crossings)) {
		r.crossed += name + "=" + r.crossings[name] + "; "
	}
}

// barOf returns what keeps a gang off nodes, nil for nothing. Before a reservation
// begins it keeps those off that would still run then.
func (s *Session) barOf(g *snapshot.Gang) *bar {
	if s.reserved == nil || len(s.reserved.whole) == 0 {
		return nil
	}
	now := s.Now.UnixNano()
	var key strings.Builder
	var against []*wholeNodes
	for i := range s.reserved.whole {
		w := &s.reserved.whole[i]
		if w.Owns(g) || g.Estimate > 0 && resource.Add(now, g.Estimate) <= w.Start {
			continue
		}
		fmt.Fprintf(&key, "%d%s ", i, w.waysOf(g, now))
		against = append(against, w)
	}
	return s.barAgainst(key.String(), against, func(w *wholeNodes, at int) bool { return w.bars(at, g, now) })
}

// barOfPieces is what keeps pieces off nodes: all reservations of whole nodes that are not
// for all that the pieces are for and not over when they are needed, or those alone that go
// before them.
func (s *Session) barOfPieces(p *pieces, goingBefore bool) *bar {
	var key strings.Builder
	var against []*wholeNodes
	for i := range s.reserved.whole {
		w := &s.reserved.whole[i]
		if w.OwnsAll(p.Reservation) || w.End <= p.Start || goingBefore && p.before(w.Reservation) {
			continue
		}
		fmt.Fprintf(&key, "%d for pieces ", i)
		against = append(against, w)
	}
	return s.barAgainst(key.String(), against, func(*wholeNodes, int) bool { return true })
}

// barAgainst makes a bar of reservations, once for each key.
func (s *Session) barAgainst(key string, against []*wholeNodes, bars func(*wholeNodes, int) bool) *bar {
	if len(against) == 0 {
		return nil
	}
	key += s.reserved.crossed
	if b := s.reserved.bars[key]; b != nil {
		return b
	}
	b := &bar{why: make([]string, len(s.Snapshot.Nodes))}
	for _, w := range against {
		why := fmt.Sprintf("reserved for others by %s until %s", w.Name, clock(w.End))
		if s.Now.UnixNano() < w.Start {
			why = fmt.Sprintf("reserved for others by %s from %s on, and the gang may run for longer", w.Name, clock(w.Start))
		}
		for _, at := range w.nodes {
			if bars(w, at) {
				b.why[at] = why
			}
		}
	}
	s.reserved.bars[key] = b
	return b
}

// bars reports whether a reservation keeps a gang that is not its owners' off one of its
// nodes: if it would still run there when nobody goes before the reservation. Owners of what
// goes before it and has begun come in for as long as they like.
func (w *wholeNodes) bars(at int, g *snapshot.Gang, now int64) bool {
	from := max(now, w.Start)
	for again := true; again; {
		again = false
		for _, o := range w.first[at] {
			if o.Owns(g) && o.Phase(now) == snapshot.ReservationActive {
				return false
			}
			if o.Whole() && o.Start <= from && from < o.End { // pieces leave the rest of the node to it
				from, again = o.End, true
			}
		}
	}
	return from < w.End && (g.Estimate <= 0 || resource.Add(now, g.Estimate) > from)
}

// waysOf tells gangs apart that a reservation keeps off different ones of its nodes, since
// others go before it there.
func (w *wholeNodes) waysOf(g *snapshot.Gang, now int64) string {
	if len(w.first) == 0 {
		return ""
	}
	owned, reached := map[string]bool{}, map[int64]bool{}
	for _, first := range w.first {
		for _, o := range first {
			if o.Owns(g) && o.Phase(now) == snapshot.ReservationActive {
				owned[o.Name] = true
			}
			if o.Whole() && (g.Estimate <= 0 || resource.Add(now, g.Estimate) > o.End) {
				reached[o.End] = true
			}
		}
	}
	return fmt.Sprint(owned, reached)
}

// placePieces finds nodes for pieces in the session's transaction, those with the least
// left over first, and returns as many as there are.
func (s *Session) placePieces(p *pieces, n int64) []keptPieces {
	if len(p.class.Missing) > 0 {
		return nil
	}
	bar := s.barOfPieces(p, false)
	out := s.findPieces(p, n, bar)
	found := &pieces{Reservation: p.Reservation, class: p.class, kept: out}
	if n -= found.keeps(); n > 0 {
		if less := s.barOfPieces(p, true); less != bar {
			s.putPieces(found, true)
			out = append(out, s.findPieces(p, n, less)...)
			s.putPieces(found, false)
		}
	}
	return out
}

func (s *Session) findPieces(p *pieces, n int64, bar *bar) []keptPieces {
	s.scope, s.bar, s.mates = s.points, bar, nil
	var out []keptPieces
	for _, c := range s.candidates(p.class, n, Domain{Node: -1}) {
		if n <= 0 {
			break
		}
		k := min(int64(c.room), n)
		out = append(out, keptPieces{node: int(c.node), count: k})
		n -= k
	}
	return out
}

// inTheWay names the reservations that go before one of an amount and without which more of
// it could be kept, "" for none.
func (s *Session) inTheWay(p *pieces, missing int64) string {
	mark := s.Txn.Checkpoint()
	defer s.Txn.Rollback(mark)
	at := func(o *pieces, node int) bool {
		return slices.ContainsFunc(o.kept, func(k keptPieces) bool { return k.node == node })
	}
	var others []*pieces
	for _, h := range s.heads { // in the cluster as it will be when it begins
		if h.reservation != nil && p.Start > s.Now.UnixNano() && h.reservation.End > p.Start && !p.before(h.reservation) {
			others = append(others, h.pieces)
		}
	}
	for _, o := range s.reserved.pieces {
		if o.Reservation != p.Reservation && len(o.kept) > 0 && o.End > p.Start && !p.before(o.Reservation) {
			others = append(others, o)
		}
	}
	for _, o := range others {
		s.putPieces(o, false)
	}
	var names []string
	name := func(r *snapshot.Reservation) {
		if text := fmt.Sprintf("%s until %s", r.Name, clock(r.End)); !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	for _, k := range s.findPieces(p, missing, nil) {
		for _, o := range others {
			if at(o, k.node) {
				name(o.Reservation)
			}
		}
		for i := range s.reserved.whole {
			w := &s.reserved.whole[i]
			if _, its := slices.BinarySearch(w.nodes, k.node); its && !p.before(w.Reservation) && !w.OwnsAll(p.Reservation) && w.End > p.Start {
				name(w.Reservation)
			}
		}
	}
	return bounded(names)
}

// givingWay is how many pieces those that go after one, and began before it begins, could
// have without it, in the order of the reservations.
func (s *Session) givingWay(p *pieces) []int64 {
	out := make([]int64, len(s.reserved.pieces))
	mark := s.Txn.Checkpoint()
	defer s.Txn.Rollback(mark)
	for i, o := range s.reserved.pieces {
		if p.before(o.Reservation) && o.Start < p.Start && p.Start < o.End {
			out[i] = s.putAnew(o)
		}
	}
	return out
}

// giveWay keeps the pieces of those again beside that one, and notes who gets fewer.
func (s *Session) giveWay(p *pieces, had []int64) {
	for i, o := range s.reserved.pieces {
		if p.before(o.Reservation) && o.Start < p.Start && p.Start < o.End && s.putAnew(o) < had[i] && o.cut == "" {
			o.cut = fmt.Sprintf("%s from %s until %s", p.Name, clock(p.Start), clock(p.End))
		}
	}
}

// putAnew keeps pieces where there is room in the session's transaction, and returns how many.
func (s *Session) putAnew(p *pieces) int64 {
	q := &pieces{Reservation: p.Reservation, class: p.class, kept: s.placePieces(p, p.Count-p.covered())}
	s.putPieces(q, true)
	return q.keeps()
}

// overlaps says which nodes of a reservation others have for a part of its time that is not
// over, "" for none.
func (s *Session) overlaps(w *wholeNodes) string {
	var names []string
	nodes := map[string][]string{} // by who goes before
	for _, at := range w.nodes {
		for _, o := range w.first[at] {
			text := fmt.Sprintf("%s until %s", o.Name, clock(o.End))
			if o.Start > max(w.Start, s.Now.UnixNano()) {
				text = fmt.Sprintf("%s from %s until %s", o.Name, clock(o.Start), clock(o.End))
			}
			if len(nodes[text]) == 0 {
				names = append(names, text)
			}
			nodes[text] = append(nodes[text], s.Snapshot.Nodes[at].Name)
		}
	}
	slices.Sort(names)
	for i, text := range names {
		names[i] = bounded(nodes[text]) + " by " + text
	}
	return bounded(names)
}

// bounded joins names, and says how many more there are than are told.
func bounded(names []string) string {
	text := strings.Join(names[:min(len(names), maxWhy)], ", ")
	if len(names) > maxWhy {
		text += fmt.Sprintf(" and %d more", len(names)-maxWhy)
	}
	return text
}
