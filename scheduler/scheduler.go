// Package scheduler decides which gang goes where. Cycle is the whole decision:
// a pure function of a snapshot and the time, equal to the byte for equal input.
// The packages cache and binder connect it to a cluster; this one and what it
// imports know of no client, no clock and no log.
package scheduler

import (
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Cycle runs the pipeline's actions over s and returns what to do and why.
func Cycle(p framework.Pipeline, s *snapshot.Snapshot, now time.Time) plan.Plan {
	ses := framework.NewSession(p, s, now)
	for _, a := range p.Actions {
		ses.Act(a)
	}
	for _, g := range s.Gangs {
		if want, changed := groupStatus(ses, g); changed {
			ses.Plan.Statuses = append(ses.Plan.Statuses, plan.Status{Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Want: want, Native: g.Native})
		}
	}
	ses.Plan.HyperNodes = nodeCounts(s)
	ses.Plan.Reservations = ses.Reservations()
	return ses.Plan
}
