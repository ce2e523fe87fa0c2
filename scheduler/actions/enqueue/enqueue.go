// Package enqueue lets PodGroups in: from Pending to Inqueue, upon which their
// pods are created. It reserves nothing; what is admitted competes in allocate.
package enqueue

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Action is the enqueue action. It holds no state.
type Action struct {
	// All lets every PodGroup of an open queue in: what a configuration that does not
	// name the action means in Volcano. Pods are made then for which there is no room
	// yet, so that whoever adds nodes for pods sees them.
	All bool
}

// Name is the action's name in configuration.
func (Action) Name() string { return "enqueue" }

// Run admits, in the order of queues and gangs, every pending PodGroup whose queue is
// open and whose minimum some domain and the queue could hold if they were empty, unless
// a plugin is against the making of its pods; with All, every one whose queue is open.
func (a Action) Run(s *framework.Session) {
	var pending []*snapshot.Gang
	for _, g := range s.Snapshot.Gangs {
		if g.Plain || g.Native || g.Absent || g.Status.Phase != snapshot.GroupPending {
			continue
		}
		s.Look(g)
		if u, ok := framework.QueueReason(s, g); !ok {
			s.Wait(g, u)
			continue
		}
		if a.All {
			s.Admit(g)
			continue
		}
		pending = append(pending, g)
	}
	if len(pending) == 0 {
		return
	}
	b := &book{ledger: s.Ledger}
	defer b.undo()
	for _, g := range s.Snapshot.Gangs {
		if g.Status.Phase != snapshot.GroupPending {
			b.take(g, g.Wants)
		}
	}
	s.InTurn(pending, func(l *framework.Line) {
		g := l.Gangs[0]
		s.Look(g)
		if u := against(s, g); u != nil {
			s.Wait(g, *u)
			return
		}
		s.Admit(g)
		need, _ := s.Snapshot.Dims.Vector(g.MinResources)
		b.take(g, need)
	})
}

// against returns why a gang is not let in, nil when it is.
func against(s *framework.Session, g *snapshot.Gang) *plan.Unschedulable {
	if u := aboveQueue(s, g); u != nil {
		return u
	}
	if reasons := never(s, g); reasons != nil {
		return &plan.Unschedulable{Code: plan.NoCapacity, Domains: reasons,
			Message: "the gang's minimum is more than there is: " + plan.DomainWords(reasons)}
	}
	if g.Unfinished() {
		return nil // its pods are there: what is kept out then is nothing but a gang in need of a place
	}
	return s.Refused(g)
}

// book counts what was let in as held, so that one queue does not use up what all of
// them may let in. It is undone before anything is placed.
type book struct {
	ledger  *entitlement.Ledger
	entries []entry
}

type entry struct {
	queue string
	what  resource.Vector
}

func (b *book) take(g *snapshot.Gang, what resource.Vector) {
	if !what.Zero() {
		b.ledger.Take(g.Queue, what, 1)
		b.entries = append(b.entries, entry{g.Queue, what})
	}
}

func (b *book) undo() {
	for _, e := range b.entries {
		b.ledger.Give(e.queue, e.what, 1)
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
		of := wholeOf(s, d)
		total, largest := of.total, of.largest
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

// whole is what a domain offers, which every gang is compared with.
type whole struct{ total, largest resource.Vector }

type wholeKey struct{ framework.Domain }

func wholeOf(s *framework.Session, d framework.Domain) whole {
	return s.Note(wholeKey{d}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		total, largest := s.Whole(d)
		return whole{total, largest}
	}).(whole)
}

// quotaOnly reports names that only resource quotas know.
func quotaOnly(name string) bool {
	return strings.HasPrefix(name, "requests.") || strings.HasPrefix(name, "limits.") || strings.HasPrefix(name, "count/")
}
