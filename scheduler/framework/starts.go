package framework

import (
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Starts are planned starts that somebody who moves gangs must not put off, as they would
// be without those. They are the caller's own; nil guards nothing.
type Starts struct {
	s     *Session
	heads []head
	marks []snapshot.Mark
}

// Starts returns the planned starts of all gangs and reservations but of one gang, nil
// when there are none.
func (s *Session) Starts(but *snapshot.Gang) *Starts {
	s.planReserved()
	out := &Starts{s: s}
	var own *head
	for i := range s.heads {
		h := s.heads[i]
		if h.reservation == nil && h.gang == but {
			own = &s.heads[i]
			continue
		}
		h.then = h.then.Fork()
		if own != nil && h.reservation == nil {
			own.leave(h.then)
		}
		if but != nil {
			s.fillStart(but, h, false)
		}
		out.heads, out.marks = append(out.heads, h), append(out.marks, h.then.Checkpoint())
	}
	if len(out.heads) == 0 {
		return nil
	}
	return out
}

// before leaves the starts that keep g from what it would be given now: of gangs that
// were looked at before it, and of reservations. It is nil when there are none.
func (p *Starts) before(g *snapshot.Gang) *Starts {
	if p == nil {
		return nil
	}
	mine, looked := p.s.turnOf(g)
	out := &Starts{s: p.s}
	for i, h := range p.heads {
		turn, _ := p.s.turnOf(h.gang)
		if h.reservation != nil || !looked || turn < mine {
			out.heads, out.marks = append(out.heads, h), append(out.marks, p.marks[i])
		}
	}
	if len(out.heads) == 0 {
		return nil
	}
	return out
}

// Without takes pods of a gang off the starts that they would still run at.
func (p *Starts) Without(g *snapshot.Gang, pods []*snapshot.Pod) {
	if p == nil {
		return
	}
	for _, pod := range pods {
		p.s.takeOff(p.heads, g, pod)
	}
}

// Back undoes Without. What was placed since has to be taken back before.
func (p *Starts) Back() {
	if p == nil {
		return
	}
	for i, h := range p.heads {
		h.then.Rollback(p.marks[i])
	}
}

// Guard makes what is placed next in the session's transaction, for g, fit the starts
// that it would still run at. It lasts until the next one, or until Unguard.
func (p *Starts) Guard(g *snapshot.Gang) {
	if p != nil {
		p.s.guard(g, p.heads)
	}
}

// StartsWithin reports whether the gang has a planned start that is no guess, and no
// further away than that.
func (s *Session) StartsWithin(g *snapshot.Gang, d time.Duration) bool {
	return slices.ContainsFunc(s.heads, func(h head) bool {
		return h.reservation == nil && h.gang == g && !h.guessed && h.at <= s.Now.Add(d).UnixNano()
	})
}

// leave takes the planned gang off another start, which is planned beside it.
func (h head) leave(then *snapshot.Txn) {
	for _, a := range h.fit.Assigned {
		then.Unkeep(a.Node, item(h.job, a.Pods))
	}
}

// unplan forgets the planned start of a gang that room is made for.
func (s *Session) unplan(g *snapshot.Gang) {
	i := slices.IndexFunc(s.heads, func(h head) bool { return h.reservation == nil && h.gang == g })
	if i < 0 {
		return
	}
	for _, h := range s.heads[i+1:] {
		if h.reservation == nil {
			s.heads[i].leave(h.then)
		}
	}
	s.heads = slices.Delete(s.heads, i, i+1)
	s.turn()
}

// startWithout takes a pod that goes off the planned starts.
func (s *Session) startWithout(g *snapshot.Gang, p *snapshot.Pod) { s.takeOff(s.heads, g, p) }

func (s *Session) takeOff(heads []head, g *snapshot.Gang, p *snapshot.Pod) {
	node, ok := s.Snapshot.Node(p.Node)
	if !ok || len(heads) == 0 {
		return
	}
	at, _ := expected(g, p, s.Now.UnixNano())
	for _, h := range heads {
		if at > h.at { // it is not taken to have ended by then
			h.then.Remove(node, p.Item(g.Key))
		}
	}
}

// startWith puts what is kept for a gang into the planned starts that it would still run
// at, or takes it off.
func (s *Session) startWith(g *snapshot.Gang, put bool) {
	for _, h := range s.heads {
		s.fillStart(g, h, put)
	}
}

func (s *Session) fillStart(g *snapshot.Gang, h head, put bool) {
	job := newJob(g)
	for rooms := s.kept[g.Key]; len(rooms) > 0; {
		r, n := rooms[0], 1
		for n < len(rooms) && r.like(rooms[n]) {
			n++
		}
		rooms = rooms[n:]
		it := snapshot.Item{Class: r.pod.Class, Job: job, Count: int64(n)}
		switch {
		case r.at <= h.at:
		case put:
			h.then.Keep(r.node, it)
		default:
			h.then.Unkeep(r.node, it)
		}
	}
}
