package whatif

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// maxFailures bounds how many gangs, unlike each other, an action tries in vain in
// one cycle, and how many of those that are Alone. Those that come later in the order are
// tried when these have their room.
const maxFailures = 32

// ForEach asks for room for every gang without any, in order. A gang is not tried
// when one like it was tried in vain before: what may be taken only becomes less
// within a cycle. What ask says has to be alike for gangs of one priority that are twins
// and hold nothing.
func ForEach(s *framework.Session, ask func(framework.Blocked) Ask) {
	e := each{s: s, ask: ask, failed: map[string]bool{}, failures: map[bool]int{}, units: map[string]*candidates{}}
	vain, turned := map[like]bool{}, s.Turned() // for whom nothing was found, nor said
	for b := range s.BlockedGangs() {
		if b.Gang.Patient || e.failures[true] >= maxFailures && e.failures[false] >= maxFailures {
			continue
		}
		s.Look(b.Gang)
		of := like{b.Twin, b.Gang.Priority}
		if turned != s.Turned() {
			clear(vain)
			turned = s.Turned()
		}
		if vain[of] {
			continue
		}
		if e.try(b) && b.Twin != nil && turned == s.Turned() {
			vain[of] = true
		}
	}
}

// like is equal for gangs that are tried alike.
type like struct {
	twin     *framework.Twin
	priority int32
}

// each is one look at all gangs without room.
type each struct {
	s        *framework.Session
	ask      func(framework.Blocked) Ask
	failed   map[string]bool
	failures map[bool]int
	units    map[string]*candidates
}

// try asks for room for one gang, and reports whether nothing was found, nor said of it.
func (e *each) try(b framework.Blocked) bool {
	s, a := e.s, e.ask(b)
	if a.Alone && e.failures[true] >= maxFailures && a.Others != nil {
		a = a.Others()
	}
	if a.Skip || e.failures[a.Alone] >= maxFailures {
		return true
	}
	if listsAnew(s) {
		a.Lasts = nil
	}
	known, ok := e.units[a.Like]
	if ok && !known.fresh(s, a) {
		known, ok = nil, false
	}
	if ok && len(known.units) == 0 && !s.Leaving() {
		return known.tell(s, a) // as nearly always, and what it is like need not be known
	}
	key := a.Like + Likeness(s, b)
	if e.failed[key] {
		return !ok || known.tell(s, a)
	}
	if !ok {
		known = list(s, a)
		e.units[a.Like] = known
	}
	us := known.units
	if len(us) == 0 && !s.Leaving() {
		return known.tell(s, a)
	}
	if !s.Affords(b, known.hold) {
		return true // its queue is full of others: no failure, since nothing was tried
	}
	if Make(s, a, us) {
		return false
	}
	e.failed[key] = true
	e.failures[a.Alone]++
	return known.tell(s, a)
}

type anewKey struct{}

// ListAnew has this cycle list who may go anew after each claim. Its plan is the same, and
// costs more.
func ListAnew(s *framework.Session) { *anew(s) = true }

func listsAnew(s *framework.Session) bool { return *anew(s) }

func anew(s *framework.Session) *bool {
	return s.Note(anewKey{}, func() any { return new(bool) }).(*bool) //nolint:forcetypeassert // only this package makes notes under its own key
}

// candidates are the units that may go for gangs that are alike, as they were listed when
// the cycle had made so many claims and sent so many pods away.
type candidates struct {
	units        []*Unit
	hold         map[string]resource.Vector // what all of them do, by queue
	claims, sent int
	spared       []*spared // who of those that were asked about
	words        *sparedWords
}

func list(s *framework.Session, a Ask) *candidates {
	last := lastSpared(s)
	*last = nil
	c := &candidates{units: a.Units(), claims: len(s.Plan.Claims), sent: len(s.SentInTurn())}
	c.spared = *last
	c.hold = asked(c.units)
	return c
}

// fresh brings candidates up to date with the claims that were made since, and reports
// whether it could. Mostly those who went are among the first, and all of them is gone.
func (c *candidates) fresh(s *framework.Session, a Ask) bool {
	if c.claims == len(s.Plan.Claims) {
		return true
	}
	if a.Lasts == nil || !a.Lasts() {
		return false
	}
	var last *snapshot.Gang // those of one gang follow one another
	for _, g := range s.SentInTurn()[c.sent:] {
		if g != last && len((Rules{}).live(s, g)) > 0 {
			return false // what may go of the rest has to be worked out
		}
		last = g
	}
	c.claims, c.sent = len(s.Plan.Claims), len(s.SentInTurn())
	now := holdersOf(s).now
	left := c.units
	gone := func(u *Unit) bool {
		if d := now[u.pos]; !d.busy && d.sent == u.sent {
			return false
		}
		c.hold[u.Gang.Queue].SubScaled(u.Asks, 1)
		return true
	}
	for len(left) > 0 && gone(left[0]) {
		left = left[1:]
	}
	c.units = slices.DeleteFunc(left, gone)
	return true
}

// asked adds up what units hold, by queue.
func asked(units []*Unit) map[string]resource.Vector {
	out := map[string]resource.Vector{}
	var sum resource.Vector // of the queue of the last, as is mostly that of the next
	for i, u := range units {
		if i == 0 || u.Gang.Queue != units[i-1].Gang.Queue {
			if sum = out[u.Gang.Queue]; sum == nil {
				sum = make(resource.Vector, len(u.Asks))
				out[u.Gang.Queue] = sum
			}
		}
		sum.AddScaled(u.Asks, 1)
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
