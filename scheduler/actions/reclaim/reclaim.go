// Package reclaim makes room across queues: a gang whose queue would hold no more
// than it deserves takes what another queue holds beyond what that one deserves.
//
// What goes leaves the other queue what it deserves where that is enough. Where it is not,
// since what runs there comes in pieces too big for that, and queues declare what they
// deserve, the piece goes that reaches below as well, down to what is guaranteed: else a
// queue would wait for what is its own as long as the other pleases.
//
// Nothing goes in circles: what all queues hold beyond what they deserve, added
// up, becomes less with every gang that goes, and never more by one that comes
// this way. Priority has no say between queues.
package reclaim

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

// Action is the reclaim action.
type Action struct {
	// MinRun is how long a pod runs at least before it can be reclaimed; 0 is the
	// default of a minute.
	MinRun time.Duration
	// SpareWholes has no gang go as a whole, only what it has beyond its minimum.
	SpareWholes bool
	// As is the name by which a configuration asks for it; "" is reclaim.
	As string
}

// Name is the action's name in configuration.
func (a Action) Name() string { return cmp.Or(a.As, "reclaim") }

// Run makes room for the gangs that allocate found none for, in its order.
func (a Action) Run(s *framework.Session) {
	f := &floors{}
	whatif.ForEach(s, a.asks(s, f))
	if s.Ledger.Declared() && len(f.tooBig) > 0 {
		f.guarantee = true
		whatif.ForEach(s, a.asks(s, f))
	}
}

// floors is down to what queues give.
type floors struct {
	// guarantee has queues give down to what they are guaranteed, to gangs that were tried
	// without that in vain, and something was too big to go.
	guarantee bool
	tooBig    map[string]bool // by what gangs are like and where they find room
}

// allows reports whether a queue may be left so much of a resource that is wanted of it.
func (f *floors) allows(q *entitlement.Queue, dim int, left int64, who func() string) bool {
	switch {
	case left >= q.Deserved[dim]:
		return true
	case f.guarantee:
		return left >= q.Guarantee[dim]
	case f.tooBig == nil:
		f.tooBig = map[string]bool{}
	}
	f.tooBig[who()] = true
	return false
}

func (a Action) asks(s *framework.Session, f *floors) func(framework.Blocked) whatif.Ask {
	listed := map[string][]string{} // the queues that may give, by what gangs are like
	return func(b framework.Blocked) whatif.Ask {
		g := b.Gang
		need := make(resource.Vector, s.Snapshot.Dims.Len())
		for _, p := range b.Must {
			need.AddScaled(p.Class.Request, 1)
		}
		s.Unhold(g) // what is kept for it already is part of what it needs
		entitled := s.Ledger.Entitled(g.Queue, need)
		s.Rehold(g)
		like := fmt.Sprintf("%s %v %v", g.Queue, entitled, asks(need))
		givers := func() []string {
			return slices.DeleteFunc(s.Ledger.Overs(), func(queue string) bool {
				return queue == g.Queue || !over(s.Ledger, g.Queue, queue, need)
			})
		}
		name := ""
		who := func() string { // costs more than most need
			name = cmp.Or(name, like+whatif.Likeness(s, b))
			return name
		}
		return whatif.Ask{
			Blocked: b, Action: a.Name(), Like: like, TellSpared: true, Skip: f.guarantee && !f.tooBig[who()],
			Units: func() []*whatif.Unit {
				if !entitled {
					return nil
				}
				listed[like] = givers()
				return whatif.UnitsIn(s, whatif.Rules{MinRun: a.MinRun, SpareWholes: a.SpareWholes}, listed[like])
			},
			Lasts: func() bool { return !entitled || slices.Equal(listed[like], givers()) },
			Allow: func() func(*whatif.Unit) bool {
				given := map[*entitlement.Queue]resource.Vector{}
				branches := map[string][2][]*entitlement.Queue{}
				return func(u *whatif.Unit) bool {
					queues, known := branches[u.Gang.Queue]
					if !known {
						apart := below(s.Ledger, g.Queue, u.Gang.Queue)
						queues = [2][]*entitlement.Queue{apart, s.Ledger.Near(apart)}
						branches[u.Gang.Queue] = queues
					}
					return keeps(given, queues[0], u) && take(s.Ledger, given, queues[1], u, need, func(q *entitlement.Queue, dim int, left int64) bool {
						return f.allows(q, dim, left, who)
					})
				}
			},
			Why: func(v *snapshot.Gang) string {
				return fmt.Sprintf("queue %s holds more than it deserves and queue %s less", v.Queue, g.Queue)
			},
		}
	}
}

// asks lists the resources that are needed: who may go depends on them.
func asks(need resource.Vector) (out []int) {
	for d, a := range need {
		if a > 0 {
			out = append(out, d)
		}
	}
	return out
}

// below lists the queues that hold less when the victim does and the claimant more: from
// where the way to the victim leaves that of the claimant, down to the victim's own.
func below(l *entitlement.Ledger, claimant, victim string) []*entitlement.Queue {
	_, y := l.Branches(claimant, victim)
	above := l.Above(victim)
	if i := slices.Index(above, y); i >= 0 {
		return above[i:]
	}
	return nil
}

// keeps reports whether queues keep what they are guaranteed, of whatever the unit holds,
// as far as they have it.
func keeps(given map[*entitlement.Queue]resource.Vector, queues []*entitlement.Queue, u *whatif.Unit) bool {
	for _, q := range queues {
		for d, a := range u.Asks {
			if a <= 0 || q.Guarantee[d] <= 0 {
				continue
			}
			held := q.Held[d]
			if v := given[q]; v != nil {
				held = resource.Sub(held, v[d])
			}
			if resource.Sub(held, a) < min(q.Held[d], q.Guarantee[d]) {
				return false
			}
		}
	}
	return true
}

// over reports whether something that the claimant needs may be taken from the
// victim's queue: it and what is above it are reclaimable and hold too much of it.
func over(l *entitlement.Ledger, claimant, victim string, need resource.Vector) bool {
	queues := l.Near(below(l, claimant, victim)) // as far up as the configuration goes
	if len(queues) == 0 {
		return false
	}
	for d, a := range need {
		all := a > 0
		for _, q := range queues {
			all = all && q.Reclaimable() && q.Counts(d) && q.Held[d] > q.Deserved[d]
		}
		if all {
			return true
		}
	}
	return false
}

// take counts a unit among what queues give back if all that have to do with it hold no
// less then than allows says, of everything that is taken from their excess.
func take(l *entitlement.Ledger, given map[*entitlement.Queue]resource.Vector, queues []*entitlement.Queue, u *whatif.Unit, need resource.Vector,
	allows func(q *entitlement.Queue, dim int, left int64) bool) bool {
	taken, useful := u.Asks, false
	for d, a := range need {
		if a <= 0 || taken[d] <= 0 {
			continue
		}
		excess := true
		for _, q := range queues {
			held := q.Held[d]
			if v := given[q]; v != nil {
				held = resource.Sub(held, v[d])
			}
			if !q.Counts(d) || held <= q.Deserved[d] {
				excess = false
				continue
			}
			if !allows(q, d, resource.Sub(held, taken[d])) {
				return false
			}
		}
		useful = useful || excess
	}
	if !useful {
		return false
	}
	for _, q := range l.Above(u.Gang.Queue) {
		if given[q] == nil {
			given[q] = make(resource.Vector, len(taken))
		}
		given[q].AddScaled(taken, 1)
	}
	return true
}
