package framework

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Backfill is how the starts of waiting gangs are protected from those that come
// after them in the order.
type Backfill struct {
	// Heads is how many gangs of each queue get a planned start.
	Heads int
	// Most bounds the planned starts of all queues together.
	Most int
	// PassUnknown lets gangs of unknown run time pass the planned starts of others.
	PassUnknown bool
}

// Backfiller is an action that protects starts.
type Backfiller interface{ Backfill() Backfill }

// head is a gang with a planned start, and the cluster as it will be then with
// the gang in it. A gang that would still run then has to fit that as well.
type head struct {
	gang    *snapshot.Gang
	at      int64
	guessed bool
	fit     *Fit
	job     string
	then    *snapshot.Txn
	// reservation, when set, stands there in place of a gang, and pieces are what it keeps.
	reservation *snapshot.Reservation
	pieces      *pieces
}

func (h head) name() string {
	if h.reservation != nil {
		return "reservation " + h.reservation.Name
	}
	return h.gang.Namespace + "/" + h.gang.Name
}

// mine reports whether the head keeps nobody off a gang's way: it is what the gang
// itself may use.
func (h head) mine(g *snapshot.Gang) bool { return h.reservation != nil && h.reservation.Owns(g) }

// end is when placed pods are expected to be gone.
type end struct {
	at      int64
	guessed bool
	gang    string
	node    int
	item    snapshot.Item
}

const (
	// unknownRun is how long a gang of which nothing is known is taken to run at
	// least. One that has run for longer is taken to have as much before it again.
	unknownRun = time.Hour
	// overrun is the least that a gang which has outlived its estimate goes on.
	overrun = time.Minute
)

// Guard makes what is placed next, for g, fit the planned starts that it would
// still run at. Unguard ends that.
func (s *Session) Guard(g *snapshot.Gang) {
	s.planReserved()
	if len(s.heads) == 0 || s.Nominated(g) {
		return
	}
	s.guard(g, s.heads)
}

// guard makes what is placed next, for g, fit the starts that it would still run at.
func (s *Session) guard(g *snapshot.Gang, heads []head) {
	var guards []*snapshot.Txn
	var salt strings.Builder
	for i, h := range heads {
		if s.reaches(g, h, 0) {
			guards = append(guards, h.then)
			fmt.Fprintf(&salt, "%d ", i)
		}
	}
	s.Txn.Guard(guards...)
	s.salt = "heads " + salt.String()
}

// reaches reports whether g would still run at a planned start that it has to fit, if it
// were placed now and ran for that much longer than it is thought to.
func (s *Session) reaches(g *snapshot.Gang, h head, longer time.Duration) bool {
	switch {
	case h.mine(g):
		return false
	case g.Estimate > 0:
		return resource.Add(s.Now.UnixNano(), resource.Add(g.Estimate, int64(longer))) > h.at
	}
	return h.reservation != nil || s.backfill == nil || !s.backfill.PassUnknown
}

// Unguard ends Guard.
func (s *Session) Unguard() {
	s.Txn.Guard()
	s.salt = ""
}

// PlanStart works out when a gang without room can start, tells so in u and, if
// it is one of the first of its queue, protects that start for the rest of the
// cycle. It changes nothing else.
func (s *Session) PlanStart(b Blocked, u *plan.Unschedulable) {
	if s.backfill == nil || u.Code != plan.NoCapacity {
		return
	}
	salt := s.salt
	s.Unguard()
	defer func() { s.salt = salt }() // the caller's Unguard follows
	if len(s.heads) > 0 && s.fitsNow(b) {
		u.Code = plan.Reserved
		h := s.heads[max(slices.IndexFunc(s.heads, func(h head) bool { return !h.mine(b.Gang) }), 0)]
		u.Message = fmt.Sprintf("it would fit, and put off the planned start of %s at %s", h.name(), clock(h.at))
	}
	if !s.plansFor(b.Gang) {
		return
	}
	h, why, guessed := s.start(b)
	if h == nil {
		s.copyAhead(b, u)
		return
	}
	h.guessed = guessed
	s.heads = append(s.heads, *h)
	s.turn()
	s.Plan.Heads = append(s.Plan.Heads, plan.Head{Gang: b.Gang.Key, Domain: h.fit.Domain.Name, At: h.at, Guessed: guessed, For: why})
	about := "at"
	if guessed {
		about = "at a guess at"
	}
	u.Message += fmt.Sprintf("; it can start %s %s on %s", about, clock(h.at), h.fit.Domain.Name)
}

// plansFor reports whether the gang is one of those whose start is planned: the first
// of its queue, unless a profile leaves backfill out there.
func (s *Session) plansFor(g *snapshot.Gang) bool {
	if s.backfill == nil || !s.Serves("backfill", g.Queue) {
		return false
	}
	mine := 0
	for _, h := range s.heads {
		if h.reservation == nil && h.gang.Queue == g.Queue {
			mine++
		}
	}
	return mine < s.backfill.Heads && len(s.heads) < s.backfill.Most
}

func clock(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }

// fitsNow reports whether the gang would fit were it not for planned starts.
func (s *Session) fitsNow(b Blocked) bool {
	mark := s.Txn.Checkpoint()
	fit, _ := s.FindDomain(b.Gang, b.Job, b.Must, nil)
	s.Txn.Rollback(mark)
	return fit != nil
}

// start finds the earliest time at which enough has ended, with the gangs that
// are planned already in their places.
func (s *Session) start(b Blocked) (h *head, why []string, guessed bool) {
	ends := s.endings()
	if len(ends) == 0 {
		return nil, nil, false
	}
	return s.earliest(b, ends)
}

// planned is the cluster when the first n of ends have come, with the gangs that are
// planned already in their places, and the fit of another there, nil for none.
func (s *Session) planned(b Blocked, n int) (txn *snapshot.Txn, fit *Fit) {
	txn = s.fork(s.afterEnds(n))
	s.WhatIf(txn, func() {
		for _, p := range s.heads {
			if p.reservation != nil {
				continue // what it keeps is kept at another time than this gang's start
			}
			for _, a := range p.fit.Assigned {
				txn.Keep(a.Node, item(p.job, a.Pods))
			}
		}
		fit, _ = s.FindDomain(b.Gang, b.Job, b.Must, nil)
	})
	return txn, fit
}

func (s *Session) earliest(b Blocked, ends []end) (*head, []string, bool) {
	steps := s.stepsOf(ends)
	var then *snapshot.Txn // at the first step that is known to suffice
	var fit *Fit
	lo, hi := 0, len(steps) // which is in [lo, hi)
	for lo < hi {
		mid := (lo + hi) / 2
		if txn, f := s.planned(b, steps[mid]); f != nil {
			hi, then, fit = mid, txn, f
		} else {
			lo = mid + 1
		}
	}
	if fit == nil {
		return nil, nil, false
	}
	n := steps[lo]
	return &head{gang: b.Gang, at: ends[n-1].at, fit: fit, job: b.Job, then: then}, s.why(fit, n), s.guessed < n
}

// why lists the last gangs of which some end, among the first n, where a fit is.
func (s *Session) why(fit *Fit, n int) (why []string) {
	on, nodes := s.endsByNode(), make([]int, 0, len(fit.Assigned))
	for _, a := range fit.Assigned {
		nodes = append(nodes, a.Node)
	}
	slices.Sort(nodes)
	var at []int
	for _, node := range slices.Compact(nodes) {
		for _, i := range on[node] {
			if int(i) < n {
				at = append(at, int(i))
			}
		}
	}
	slices.Sort(at)
	for _, i := range slices.Backward(at) {
		if gang := s.ends[i].gang; len(why) < maxWhy && !slices.Contains(why, gang) {
			why = append(why, gang)
		}
	}
	slices.Reverse(why)
	return why
}

// stepsOf lists the positions after the last of those ends that come together.
func (s *Session) stepsOf(ends []end) []int {
	if s.steps == nil {
		s.guessed = len(ends)
		for i := range ends {
			if ends[i].guessed {
				s.guessed = min(s.guessed, i)
			}
			if i+1 == len(ends) || ends[i+1].at != ends[i].at {
				s.steps = append(s.steps, i+1)
			}
		}
	}
	return s.steps
}

// maxWhy bounds the gangs that a planned start names.
const maxWhy = 4

// endings lists when what is placed is expected to end, the soonest first.
func (s *Session) endings() []end {
	if !s.endsKnown {
		s.endsKnown, s.steps = true, nil
		s.ends = make([]end, 0, s.residents())
		now := s.Now.UnixNano()
		for _, g := range s.Snapshot.Gangs {
			if g.Held.Zero() {
				continue
			}
			for _, p := range g.Pods {
				i, ok := s.Snapshot.Node(p.Node)
				if p.Node == "" || p.Terminal() || !ok {
					continue
				}
				at, guessed := expected(g, p, now)
				s.ends = append(s.ends, end{at, guessed, g.Key, i, p.Item(g.Key)})
			}
		}
		s.keptEnds()
		s.sortEnds()
	}
	if s.merged < len(s.started) {
		s.addFresh()
	}
	return s.ends
}

// residents counts the pods that have a place.
func (s *Session) residents() (n int) {
	for _, g := range s.Snapshot.Gangs {
		if !g.Held.Zero() {
			n += len(g.Pods)
		}
	}
	return n
}

// keptEnds lists when those end that room is kept for: they start when it is given up at
// the latest, so what is planned after them never slides while they wait.
func (s *Session) keptEnds() {
	for key, rooms := range s.kept {
		if key == s.unheld {
			continue
		}
		for _, r := range rooms {
			it := snapshot.Item{Class: r.pod.Class, Job: key + newJobSuffix, Count: 1, Kept: true}
			s.ends = append(s.ends, end{r.at, r.guessed, key, r.node, it})
		}
	}
}

// forgetEnds has what ends worked out anew, since what is kept for others has changed.
func (s *Session) forgetEnds() {
	s.ends, s.steps, s.endsOn, s.views, s.endsKnown, s.merged = nil, nil, nil, nil, false, 0
}

// starting is what this cycle has placed.
type starting struct {
	gang     *snapshot.Gang
	job      string
	assigned []Assignment
}

func (s *Session) addFresh() {
	now := s.Now.UnixNano()
	before := s.ends
	s.ends = nil
	for _, f := range s.started[s.merged:] {
		for _, a := range f.assigned {
			for i, p := range a.Pods {
				at, guessed := expected(f.gang, p, now)
				it := snapshot.Item{Class: p.Class, Job: f.job, Count: 1}
				if i < len(a.Devices) {
					it.Devices = a.Devices[i : i+1]
				}
				s.ends = append(s.ends, end{at, guessed, f.gang.Key, a.Node, it})
			}
		}
	}
	s.merged, s.endsOn, s.steps = len(s.started), nil, nil
	s.sortEnds()
	fresh := s.ends
	s.ends = make([]end, 0, len(before)+len(fresh))
	for _, e := range before {
		for len(fresh) > 0 && fresh[0].compare(e) < 0 {
			s.ends, fresh = append(s.ends, fresh[0]), fresh[1:]
		}
		s.ends = append(s.ends, e)
	}
	s.ends = append(s.ends, fresh...)
}

func (s *Session) sortEnds() { slices.SortStableFunc(s.ends, end.compare) }

func (a end) compare(b end) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.gang, b.gang), cmp.Compare(a.node, b.node))
}

// expected is when a placed pod is gone.
func expected(g *snapshot.Gang, p *snapshot.Pod, now int64) (at int64, guessed bool) {
	started := p.StartedAt
	if started == 0 {
		started = now
	}
	ran := max(now-started, 0)
	switch {
	case p.Terminating:
		return now, false
	case g.Estimate <= 0:
		return now + max(ran, int64(unknownRun)-ran), true
	case resource.Add(started, g.Estimate) <= now:
		return now + max(int64(overrun), ran-g.Estimate), true
	}
	return resource.Add(started, g.Estimate), false
}
