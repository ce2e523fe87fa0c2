package framework

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// The reasons of a reservation's condition Held.
const (
	reservationHeld     = "Held"
	reservationNotBegun = "NotBegun"
	reservationInUse    = "InUse"            // others still run there
	reservationNoNode   = "NoSuchNode"       // what it names does not exist
	reservationTooFew   = "NotEnough"        // there is no room for all pieces
	reservationOverlaps = "Overlaps"         // others that were made before have some of it
	reservationNoBatch  = "NotAtBatchSystem" // a batch system behind its virtual nodes has none
	reservationOver     = "Over"
)

// Reservations lists the statuses that should be shown for reservations, where they
// differ from what is.
func (s *Session) Reservations() []plan.Reservation {
	if len(s.Snapshot.Reservations) == 0 {
		return nil
	}
	s.planReserved()
	var out []plan.Reservation
	for i := range s.Snapshot.Reservations {
		r := &s.Snapshot.Reservations[i]
		want := snapshot.ReservationStatus{Phase: r.Phase(s.Now.UnixNano()), Start: r.Start, End: r.End}
		switch {
		case want.Phase == snapshot.ReservationExpired:
			want.Reason, want.Message = reservationOver, "it was over at "+clock(r.End)
		case r.Whole():
			s.wholeStatus(r, &want)
		default:
			s.piecesStatus(r, &want)
		}
		want.Message = plan.Bound(want.Message)
		if want != r.Status {
			out = append(out, plan.Reservation{Name: r.Name, UID: r.UID, Want: want})
		}
	}
	return out
}

func (s *Session) wholeStatus(r *snapshot.Reservation, want *snapshot.ReservationStatus) {
	at := slices.IndexFunc(s.reserved.whole, func(w wholeNodes) bool { return w.Reservation == r })
	w := &s.reserved.whole[at]
	nodes := w.nodes
	want.Nodes = int64(len(nodes) - len(w.first))
	var missing []string
	for _, name := range r.Nodes {
		if _, ok := s.Snapshot.Node(name); !ok {
			missing = append(missing, name)
		}
	}
	switch {
	case len(missing) > 0:
		want.Reason, want.Message = reservationNoNode, "there are no nodes "+strings.Join(missing, ", ")
		return
	case len(nodes) == 0:
		want.Reason, want.Message = reservationNoNode, "no node has the labels"
		return
	case len(w.first) > 0:
		want.Reason, want.Message = reservationOverlaps, "reserved before it: "+s.overlaps(w)
		return
	case notThere(r) != "":
		want.Reason, want.Message = reservationNoBatch, notThere(r)
		return
	case want.Phase == snapshot.ReservationPending:
		want.Reason, want.Message = reservationNotBegun, "it begins at "+clock(r.Start)
		return
	}
	var others []string
	for _, g := range s.Snapshot.Gangs {
		if r.Owns(g) || g.Held.Zero() {
			continue
		}
		there := slices.ContainsFunc(g.Pods, func(p *snapshot.Pod) bool {
			i, ok := s.Snapshot.Node(p.Node)
			return ok && p.Node != "" && !p.Terminal() && slices.Contains(nodes, i)
		})
		if there {
			others = append(others, g.Namespace+"/"+g.Name)
		}
	}
	for _, pl := range s.Plan.Placements { // of this cycle
		g := s.Snapshot.Gang(pl.Gang)
		there := slices.ContainsFunc(pl.Binds, func(b plan.Bind) bool {
			i, ok := s.Snapshot.Node(b.Node)
			return ok && slices.Contains(nodes, i)
		})
		if name := g.Namespace + "/" + g.Name; there && !r.Owns(g) && !slices.Contains(others, name) {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		want.Held, want.Reason, want.Message = true, reservationHeld, fmt.Sprintf("nodes kept: %d", len(nodes))+s.keptHere(r, nodes)
		return
	}
	want.Reason, want.Message = reservationInUse, "until they end there run "+bounded(others)
}

// notThere says which batch systems behind the nodes of a reservation have none of it,
// "" when all that make any do.
func notThere(r *snapshot.Reservation) string {
	var out []string
	for _, b := range r.Batch {
		if !b.There {
			out = append(out, b.Cluster+": "+b.Message)
		}
	}
	return strings.Join(out, "; ")
}

// keptHere names the virtual nodes among those of a reservation behind which nothing is
// reserved: only gangs of this cluster are kept off them.
func (s *Session) keptHere(r *snapshot.Reservation, nodes []int) string {
	var out, short []string
	for _, at := range nodes {
		n := s.Snapshot.Nodes[at]
		made := slices.ContainsFunc(r.Batch, func(b snapshot.BatchState) bool { return b.Cluster == n.Labels[wellknown.Cluster] })
		if n.Virtual && !made {
			out = append(out, n.Name)
		}
	}
	for _, b := range r.Batch {
		if b.There && b.Message != "" {
			short = append(short, "; "+b.Cluster+": "+b.Message)
		}
	}
	if len(out) == 0 {
		return strings.Join(short, "")
	}
	return "; jobs from outside this cluster may still run on " + bounded(out) + ": its batch system makes no reservation" + strings.Join(short, "")
}

// ReservedOn says which reservations that have begun, or are to begin, keep a node or room
// on it, in words, one each.
func (s *Session) ReservedOn(node int) []string {
	if s.reserved == nil {
		return nil
	}
	var out []string
	for _, w := range s.reserved.whole {
		if slices.Contains(w.nodes, node) {
			out = append(out, fmt.Sprintf("reservation %s has the node for its owners from %s until %s", w.Name, moment(w.Start), moment(w.End)))
		}
	}
	for _, p := range s.reserved.pieces {
		var here int64
		for _, k := range p.kept {
			if k.node == node {
				here += k.count
			}
		}
		if here > 0 {
			out = append(out, fmt.Sprintf("room for %d pieces is kept for reservation %s until %s", here, p.Name, moment(p.End)))
		}
	}
	return out
}

// moment is a time in nanoseconds as people read it.
func moment(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }

// reservedBy is the reservation of whole nodes by which a gang comes to a node, the one
// that begins first, "" for none. The batch system behind the node wants to know.
func (s *Session) reservedBy(g *snapshot.Gang, node int) string {
	if s.reserved == nil {
		return ""
	}
	var best *snapshot.Reservation
	for _, w := range s.reserved.whole {
		if w.Owns(g) && slices.Contains(w.nodes, node) && (best == nil || w.Start < best.Start) {
			best = w.Reservation
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

func (s *Session) piecesStatus(r *snapshot.Reservation, want *snapshot.ReservationStatus) {
	at := slices.IndexFunc(s.reserved.pieces, func(p *pieces) bool { return p.Reservation == r })
	p := s.reserved.pieces[at]
	covered := p.covered()
	switch {
	case len(p.class.Missing) > 0:
		want.Reason, want.Message = reservationTooFew, "no node offers any "+p.class.Missing[0].Name
	case want.Phase == snapshot.ReservationPending && covered+p.later < p.Count && p.after != "":
		want.Reason, want.Message = reservationOverlaps, fmt.Sprintf("of %d pieces %d can be kept when it begins; there is room that was reserved before it by %s", p.Count, covered+p.later, p.after)
	case want.Phase == snapshot.ReservationPending && covered+p.later < p.Count:
		want.Reason, want.Message = reservationTooFew, fmt.Sprintf("of %d pieces %d can be kept when it begins, as far as it is known when what runs ends", p.Count, covered+p.later)
	case want.Phase == snapshot.ReservationPending && p.cut != "":
		want.Reason, want.Message = reservationOverlaps, "some of the room was reserved before it by "+p.cut
	case want.Phase == snapshot.ReservationPending:
		want.Reason, want.Message = reservationNotBegun, "it begins at "+clock(r.Start)
	default:
		want.Pieces = covered + p.keeps()
		want.Held = want.Pieces >= p.Count
		want.Reason, want.Message = reservationHeld, fmt.Sprintf("%d pieces are kept, or held by its owners", p.Count)
		if n := p.behindLeaving().keeps(); n > 0 {
			want.Message += fmt.Sprintf("; %d of them as soon as what is going away has gone", n)
		}
		if want.Held && p.cut != "" {
			want.Held, want.Reason, want.Message = false, reservationOverlaps, "some of the room was reserved before it by "+p.cut
			return
		}
		if want.Held {
			return
		}
		want.Reason, want.Message = reservationTooFew, fmt.Sprintf("of %d pieces %d are kept; the rest is as soon as there is room", p.Count, want.Pieces)
		if by := s.inTheWay(p, p.Count-want.Pieces); by != "" {
			want.Reason, want.Message = reservationOverlaps, fmt.Sprintf("of %d pieces %d are kept; there is room that was reserved before it by %s", p.Count, want.Pieces, by)
		}
	}
}
