package allocate

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// more is what a gang that has its minimum may get besides.
type more struct {
	gang    *snapshot.Gang
	waiting []*snapshot.Pod // in the order in which they are placed
	used    []*snapshot.Pod // of those that this cycle placed to complete an attempt
	beside  *framework.Fit  // where this cycle placed its minimum; nil if it had it before
	due     bool            // its turn is the next one
}

// growth are the gangs that may get more. A gang grows when the minimums of all gangs of
// its queue that are as urgent have had their turn: who has no place goes before who has
// one. In a queue that is served in order it grows at once.
type growth struct {
	of      map[string]*more
	waiting map[*framework.Line][]*more
}

// note remembers what a gang may get, and reports whether there is anything.
func (w *growth) note(m *more) bool {
	if m == nil {
		return false
	}
	if w.of == nil {
		w.of, w.waiting = map[string]*more{}, map[*framework.Line][]*more{}
	}
	w.of[m.gang.Key] = m
	return true
}

// later has a gang wait until turn puts it into the line again.
func (w *growth) later(l *framework.Line, m *more) {
	m.due = true
	w.waiting[l] = append(w.waiting[l], m)
}

// turn puts those that are to grow next behind the first of the line.
func (w *growth) turn(l *framework.Line) {
	all := w.waiting[l]
	if len(all) == 0 || len(l.Gangs) > 1 && l.Queue.Dequeue != snapshot.DequeueFIFO && l.Gangs[1].Priority >= all[0].gang.Priority {
		return
	}
	gangs := make([]*snapshot.Gang, 0, len(all))
	for _, m := range all {
		gangs = append(gangs, m.gang)
	}
	delete(w.waiting, l)
	l.Gangs = slices.Insert(l.Gangs, 1, gangs...)
}

// placeOwn places as many as fit, also in the room that is kept for the gang.
func (m *more) placeOwn(s *framework.Session) {
	s.Look(m.gang)
	s.Unhold(m.gang)
	defer s.Rehold(m.gang)
	m.place(s)
}

// place places as many as fit: beside what this cycle placed, as one job with it; else
// wherever the first of them finds a place.
func (m *more) place(s *framework.Session) {
	g, fit, placed := m.gang, m.beside, 0
	if fit != nil {
		extra := s.Extend(g, framework.NewJob(g, m.waiting), s.Beyond(g, m.waiting, nil), fit.Domain, fit.Assigned)
		if placed = count(extra); placed > 0 {
			s.Join(g, extra)
		}
	} else {
		must := next(g, m.waiting, m.used)
		if must == nil {
			return // parts of which too few pods exist
		}
		if fit = placeMust(s, g, must, true); fit == nil {
			return
		}
		extra := s.Extend(g, framework.NewJob(g, must), s.Beyond(g, m.waiting, must), fit.Domain, fit.Assigned)
		all := slices.Concat(fit.Assigned, extra)
		s.Commit(g, fit.Domain, "", 0, all, nil)
		placed = count(all)
	}
	left := len(m.waiting) - placed
	if left == 0 {
		return
	}
	first := slices.IndexFunc(m.waiting, func(p *snapshot.Pod) bool { return !s.IsPlaced(p) })
	if first < 0 {
		return // all have a place by now
	}
	if u := s.OverQuota(g, m.waiting[first:first+1]); u != nil {
		u.Satisfied = true
		s.Wait(g, *u)
	} else {
		what := fmt.Sprintf("members beyond the minimum of %d", g.Minimum())
		if g.Unmade != "" {
			what = "further members"
		}
		s.Wait(g, plan.Unschedulable{Code: plan.NoCapacity, Satisfied: true,
			Message: fmt.Sprintf("%d %s do not fit on %s", left, what, fit.Domain.Name)})
	}
}

// comesBack is how long a gang has too few pods until nobody is thought to make more of them
// at once, as where its owner starts a task anew: they are placed together then, and are one
// batch job on a virtual node.
const comesBack = time.Minute

// scaledDown reports whether the gang has had its minimum, some of it runs, and there are
// no longer pods enough for its minimum, for which code is the reason, nor have been for a
// while.
func scaledDown(s *framework.Session, g *snapshot.Gang, code plan.Code) bool {
	return s.Now.UnixNano()-g.UnmadeSince >= int64(comesBack) && g.Unmade != "" && g.Whole != nil && (code == plan.NotEnoughPods || code == plan.NotEnoughTaskPods)
}

// makeUp places what a gang that was scaled below its minimum has lost, up to what its owner
// still wants: as many as fit, as beyond a minimum, since what runs of it runs without the
// others anyway. why is what they wait for if parts of which nothing runs lack pods.
func makeUp(s *framework.Session, g *snapshot.Gang, waiting, used []*snapshot.Pod, why plan.Unschedulable) {
	if next(g, waiting, used) == nil {
		s.Wait(g, why)
		return
	}
	(&more{gang: g, waiting: waiting, used: used}).place(s)
}

func count(assigned []framework.Assignment) (n int) {
	for _, a := range assigned {
		n += len(a.Pods)
	}
	return n
}
