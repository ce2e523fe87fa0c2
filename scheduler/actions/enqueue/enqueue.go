// Package enqueue lets PodGroups in: from Pending to Inqueue, upon which their
// pods are created. It reserves nothing; what is admitted competes in allocate.
package enqueue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Action is the enqueue action. It holds no state.
type Action struct{}

// Name is the action's name in configuration.
func (Action) Name() string { return "enqueue" }

// Run admits, in the order in which gangs are placed, every pending PodGroup whose
// queue is open and whose minimum some domain and the queue could hold if they were
// empty, unless a plugin is against it.
func (Action) Run(s *framework.Session) {
	var pending []*snapshot.Gang
	for _, g := range s.Snapshot.Gangs {
		if !g.Plain && !g.Native && !g.Absent && g.Status.Phase == snapshot.GroupPending {
			pending = append(pending, g)
		}
	}
	if len(pending) == 0 {
		return
	}
	slices.SortStableFunc(pending, s.CompareGangs)
	for _, g := range pending {
		s.Look(g)
		if u, ok := framework.QueueReason(s, g); !ok {
			s.Wait(g, u)
			continue
		}
		if u := aboveQueue(s, g); u != nil {
			s.Wait(g, *u)
			continue
		}
		if reasons := never(s, g); reasons != nil {
			s.Wait(g, plan.Unschedulable{Code: plan.NoCapacity, Domains: reasons,
				Message: "the gang's minimum is more than there is: " + plan.DomainWords(reasons)})
			continue
		}
		if u := s.Refused(g); u != nil {
			s.Wait(g, *u)
			continue
		}
		s.Admit(g)
	}
}

// aboveQueue returns why the gang's queue, or one above it, could never hold the
// gang's minimum, nil when they could.
func aboveQueue(s *framework.Session, g *snapshot.Gang) *plan.Unschedulable {
	need, _ := s.Snapshot.Dims.Vector(g.MinResources)
	for _, q := range s.Ledger.Above(g.Queue) {
		for d, a := range need {
			if a > q.Capability[d] && q.Binds(d) {
				name := s.Snapshot.Dims.Name(d)
				return &plan.Unschedulable{Code: plan.OverQuota, Message: fmt.Sprintf("the gang's minimum is %s %s and queue %q may hold at most %s",
					plan.Amount(name, a), name, q.Name, plan.Amount(name, q.Capability[d]))}
			}
		}
	}
	return nil
}

// never returns why no domain can hold the gang's minimum resources even when
// empty, nil when one can.
func never(s *framework.Session, g *snapshot.Gang) []plan.DomainReason {
	var wanted resource.List
	for _, q := range g.MinResources {
		if !quotaOnly(q.Name) {
			wanted = append(wanted, q)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	need, missing := s.Snapshot.Dims.Vector(wanted)
	var out []plan.DomainReason
	for _, d := range s.Domains() {
		total, largest := s.Whole(d)
		r := plan.DomainReason{Domain: d.Name, Code: plan.NoCapacity}
		for dim, a := range need {
			if a > total[dim] {
				r.Short = append(r.Short, snapshot.Shortage{Resource: s.Snapshot.Dims.Name(dim), Need: a, Free: total[dim], Largest: largest[dim]})
			}
		}
		for _, q := range missing {
			r.Short = append(r.Short, snapshot.Shortage{Resource: q.Name, Need: q.Amount})
		}
		slices.SortFunc(r.Short, func(a, b snapshot.Shortage) int { return strings.Compare(a.Resource, b.Resource) })
		if len(r.Short) == 0 {
			return nil
		}
		out = append(out, r)
	}
	if out == nil {
		out = []plan.DomainReason{{Domain: plan.RealDomain, Code: plan.NodesDontMatch, Nodes: []plan.NodeCount{{Why: fmt.Sprintf("of %d known", len(s.Snapshot.Nodes))}}}}
	}
	return out
}

// quotaOnly reports names that only resource quotas know.
func quotaOnly(name string) bool {
	return strings.HasPrefix(name, "requests.") || strings.HasPrefix(name, "limits.") || strings.HasPrefix(name, "count/")
}
