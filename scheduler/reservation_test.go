package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// booked is a history of contention in which nodes and amounts are reserved as well.
func booked(r *rand.Rand) []string {
	var out []string
	most := 1 + r.IntN(3)
	for i, line := range history(r) {
		out = append(out, line)
		if line == "cycle" && r.IntN(4) == 0 && most > 0 {
			most--
			what := []string{"nodes=n0", "nodes=n1,v0", fmt.Sprintf("count=%d each.gpu=%d", 1+r.IntN(2), 1+r.IntN(4))}[r.IntN(3)]
			out = append(out, fmt.Sprintf("reserve r%d from=%dm for=%dm %s queues=q%d", i, r.IntN(90), 10+r.IntN(120), what, r.IntN(3)))
		}
	}
	return out
}

// playBooked checks after every cycle that nobody was placed where others have
// reserved, or for longer than until they do, and that what was held once stays so.
func playBooked(script []string) error {
	w := schedtest.NewWorld()
	owned := map[string]int{}
	for i, line := range script {
		if line != "cycle" {
			if _, err := w.Do(line); err != nil {
				return errBadScript
			}
			continue
		}
		before, had := slices.Clone(w.Reservations), owned
		s := w.Snapshot()
		holds := ownersPods(s)
		p := scheduler.Cycle(schedtest.Pipeline(), s, w.Now)
		if err := keptOut(s, p, w.Now.UnixNano()); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		w.Apply(p)
		owned = ownersPods(w.Snapshot())
		if err := promisedOnce(w.Snapshot(), w.Now.UnixNano()); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := check(w); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		for k, r := range w.Reservations {
			if len(w.Reservations) > 1 && !r.Whole() {
				continue // where others reserve the same, what its owners give back may be theirs
			}
			took := slices.ContainsFunc(p.Placements, func(pl plan.Placement) bool { return r.Owns(s.Gang(pl.Gang)) }) ||
				slices.ContainsFunc(p.Claims, func(c plan.Claim) bool { return r.Owns(s.Gang(c.Gang)) })
			if took || holds[r.Name] < had[r.Name] {
				continue // its owners have taken of it, a part of a piece maybe, or ended where no piece fits beside others
			}
			was := before[k].Status
			if len(w.Reservations) > 1 && r.Status.Reason == "Overlaps" {
				continue // an amount that was reserved before had to be kept there
			}
			if goesBefore(s, p, &r, w.Now.UnixNano()) {
				continue // owners of what was reserved before, and has begun, may go there
			}
			if r.Status.Phase == snapshot.ReservationActive && was.Phase == snapshot.ReservationActive && was.Held && !r.Status.Held {
				return fmt.Errorf("line %d: reservation %s is not held any more: %s\n%s", i+1, r.Name, r.Status.Message, p)
			}
		}
	}
	return nil
}

// goesBefore reports whether owners of a reservation that was made before another, and has
// begun, are placed.
func goesBefore(s *snapshot.Snapshot, p plan.Plan, r *snapshot.Reservation, now int64) bool {
	return slices.ContainsFunc(p.Placements, func(pl plan.Placement) bool {
		g := s.Gang(pl.Gang)
		return slices.ContainsFunc(s.Reservations, func(o snapshot.Reservation) bool {
			return snapshot.CompareReservations(&o, r) < 0 && o.Phase(now) == snapshot.ReservationActive && o.Owns(g)
		})
	})
}

// ownersPods counts the pods of those that reservations are for and that hold something.
func ownersPods(s *snapshot.Snapshot) map[string]int {
	out := map[string]int{}
	for i := range s.Reservations {
		r := &s.Reservations[i]
		for _, g := range s.Gangs {
			for _, p := range g.Pods {
				if r.Owns(g) && p.Node != "" && !p.Terminal() {
					out[r.Name]++
				}
			}
		}
	}
	return out
}

func keptOut(s *snapshot.Snapshot, p plan.Plan, now int64) error {
	for _, pl := range p.Placements {
		g := s.Gang(pl.Gang)
		for k := range s.Reservations {
			r := &s.Reservations[k]
			if !r.Whole() || r.Owns(g) || now >= r.End {
				continue
			}
			for _, b := range pl.Binds {
				if at, ok := s.Node(b.Node); ok && r.Covers(s.Nodes[at]) && hasThen(s, r, s.Nodes[at], g, now) {
					return fmt.Errorf("gang %s is placed on %s, which is reserved by %s", g.Name, b.Node, r.Name)
				}
			}
		}
	}
	return nil
}

// hasThen reports whether a reservation of others has a node at a time at which a gang that
// starts now may run there, and no other was made before that has it then.
func hasThen(s *snapshot.Snapshot, r *snapshot.Reservation, n *snapshot.Node, g *snapshot.Gang, now int64) bool {
	var first []*snapshot.Reservation
	times := []int64{max(now, r.Start)}
	for k := range s.Reservations {
		o := &s.Reservations[k]
		if snapshot.CompareReservations(o, r) >= 0 || o.End <= now || fmt.Sprint(o.Queues) == fmt.Sprint(r.Queues) {
			continue
		}
		if (o.Covers(n) || !o.Whole()) && o.Owns(g) && now >= o.Start {
			return false // of whole nodes, or of pieces that may be kept there
		}
		if o.Covers(n) {
			first, times = append(first, o), append(times, o.End)
		}
	}
	return slices.ContainsFunc(times, func(t int64) bool {
		had := slices.ContainsFunc(first, func(o *snapshot.Reservation) bool { return o.Start <= t && t < o.End })
		return !had && t >= r.Start && t < r.End && (g.Estimate <= 0 || t < now+g.Estimate)
	})
}

// promisedOnce reports two reservations of which both are said to be there for different
// owners at the same time.
func promisedOnce(s *snapshot.Snapshot, now int64) error {
	for i := range s.Reservations {
		for k := range s.Reservations {
			a, b := &s.Reservations[i], &s.Reservations[k]
			both := a.Status.Held && b.Status.Held && a.Whole() && b.Whole() && a.Meets(b) && fmt.Sprint(a.Queues) != fmt.Sprint(b.Queues)
			for _, n := range s.Nodes {
				if i != k && both && a.Covers(n) && b.Covers(n) && b.End > now {
					return fmt.Errorf("node %s is promised by %s and by %s", n.Name, a.Name, b.Name)
				}
			}
		}
	}
	return nil
}

// TestReservationsAreKept plays random histories with reservations.
func TestReservationsAreKept(t *testing.T) {
	held := 0
	for seed := range seeds(t) / 2 {
		script := booked(rand.New(rand.NewPCG(uint64(seed), 4)))
		if err := playBooked(script); err != nil {
			script, err = shrinkBy(script, err, playBooked)
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
		held += strings.Count(strings.Join(script, "\n"), "reserve")
	}
	t.Logf("%d histories, %d reservations", seeds(t)/2, held)
}
