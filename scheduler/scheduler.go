// Package scheduler decides which gang goes where. Cycle is the whole decision:
// a pure function of a snapshot and the time, equal to the byte for equal input.
// The packages cache and binder connect it to a cluster; this one and what it
// imports know of no client, no clock and no log.
package scheduler

import (
	"fmt"
	"runtime/debug"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Failure is what Cycle panics with when something in it does. The snapshot is as
// before, so a cycle without the gang that was looked at can follow.
type Failure struct {
	Gang   string // key of the gang that was looked at, "" for none
	Action string // the action that ran, "" for none
	Cause  any
	Stack  []byte
}

func (f *Failure) Error() string {
	return fmt.Sprintf("panic in cycle, action %q, gang %q: %v\n%s", f.Action, f.Gang, f.Cause, f.Stack)
}

// Cycle runs the pipeline's actions over s and returns what to do and why. It
// panics with a *Failure.
func Cycle(p framework.Pipeline, s *snapshot.Snapshot, now time.Time) plan.Plan {
	return cycle(p, s, now, true)
}

// Decide is Cycle for who is not interested in what is to be told of objects: the plan has
// no statuses of any, no copies that are waited for and no faults of queues.
func Decide(p framework.Pipeline, s *snapshot.Snapshot, now time.Time) plan.Plan {
	return cycle(p, s, now, false)
}

func cycle(p framework.Pipeline, s *snapshot.Snapshot, now time.Time, tell bool) plan.Plan {
	var ses *framework.Session
	defer func() {
		if r := recover(); r != nil {
			f := &Failure{Cause: r, Stack: debug.Stack()}
			if ses != nil {
				f.Action, f.Gang = ses.Looking()
			}
			panic(f)
		}
	}()
	ses = framework.NewSession(p, s, now)
	ses.Remember()
	for _, a := range p.Actions {
		ses.Act(a)
	}
	if !tell {
		ses.Leave()
		return ses.Plan
	}
	for _, g := range s.Gangs {
		ses.Look(g)
		if want, changed := groupStatus(ses, g); changed {
			ses.Plan.Statuses = append(ses.Plan.Statuses, plan.Status{Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Want: want, ShortSince: g.ShortSince, Native: g.Native})
		}
		if want, changed := ses.Staging(g); changed {
			ses.Plan.Stagings = append(ses.Plan.Stagings, plan.Staging{Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Want: want})
		}
	}
	ses.Plan.HyperNodes = nodeCounts(s)
	ses.Plan.Reservations = ses.Reservations()
	ses.Plan.Queues = queueFaults(ses)
	ses.Leave()
	return ses.Plan
}
