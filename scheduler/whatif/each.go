package whatif

import (
	"fmt"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// maxFailures bounds how many gangs, unlike each other, an action tries in vain in
// one cycle. Those that come later in the order are tried when these have their room.
const maxFailures = 32

// ForEach asks for room for every gang without any, in order. A gang is not tried
// when one like it was tried in vain before: what may be taken only becomes less
// within a cycle.
func ForEach(s *framework.Session, ask func(framework.Blocked) Ask) {
	failed := map[string]bool{}
	type candidates struct {
		units []*Unit
		hold  map[string]resource.Vector // what all of them do, by queue
	}
	units := map[string]candidates{}
	for b := range s.BlockedGangs() {
		if b.Gang.Patient || len(failed) >= maxFailures {
			continue
		}
		s.Look(b.Gang)
		a := ask(b)
		known, ok := units[a.Like]
		if ok && len(known.units) == 0 && !s.Leaving() {
			continue // as nearly always, and what it is like need not be known
		}
		key := a.Like + Likeness(s, b)
		if failed[key] {
			continue
		}
		if !ok {
			known.units = a.Units()
			known.hold = asked(known.units)
			units[a.Like] = known
		}
		us := known.units
		if len(us) == 0 && !s.Leaving() {
			continue
		}
		if !s.Affords(b, known.hold) {
			continue // its queue is full of others: no failure, since nothing was tried
		}
		before := len(s.Plan.Claims)
		if !Make(s, a, us) {
			failed[key] = true
		}
		if len(s.Plan.Claims) > before {
			clear(units)
		}
	}
}

// asked adds up what units hold, by queue.
func asked(units []*Unit) map[string]resource.Vector {
	out := map[string]resource.Vector{}
	for _, u := range units {
		if out[u.Gang.Queue] == nil {
			out[u.Gang.Queue] = make(resource.Vector, len(u.Asks))
		}
		out[u.Gang.Queue].AddScaled(u.Asks, 1)
	}
	return out
}

// Likeness is equal for gangs that find room in the same places or in none.
func Likeness(s *framework.Session, b framework.Blocked) string {
	var out strings.Builder
	for _, d := range s.DomainsFor(b.Gang) {
		fmt.Fprintf(&out, " %s", d.Name)
	}
	for i := 0; i < len(b.Must); { // most are of one class
		first := i
		for i < len(b.Must) && b.Must[i].Class == b.Must[first].Class {
			i++
		}
		fmt.Fprintf(&out, " %p*%d", b.Must[first].Class, i-first)
	}
	out.WriteString(s.Alike(b))
	if s.Nominated(b.Gang) {
		out.WriteString(b.Gang.Key) // it may use what is kept for it
	}
	return out.String()
}
