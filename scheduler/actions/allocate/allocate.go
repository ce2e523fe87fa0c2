// Package allocate places gangs: the minimum of a gang together in one domain
// or not at all, then, when other gangs of its priority have had their turn, as many
// further members as fit beside it. Interrupted placements are completed before
// anything else.
package allocate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Action is the allocate action. It holds no state.
type Action struct{}

// Name is the action's name in configuration.
func (Action) Name() string { return "allocate" }

// Run places what fits, in the order of queues and gangs.
func (Action) Run(s *framework.Session) {
	var resting, urgent, others []*snapshot.Gang
	for _, g := range s.Snapshot.Gangs {
		s.Look(g)
		if !candidate(s, g) {
			if g.Hold != "" && partial(g) {
				resting = append(resting, g)
			}
			continue
		}
		if partial(g) || s.Nominated(g) {
			urgent = append(urgent, g)
			continue
		}
		others = append(others, g)
	}
	s.Look(nil)
	slices.SortFunc(resting, s.CompareGangs)
	for _, g := range resting {
		keepForRest(s, g)
	}
	slices.SortFunc(urgent, s.CompareGangs)
	grow := growth{}
	for _, g := range urgent {
		if grow.note(placeOwn(s, g)) {
			others = append(others, g)
		}
	}
	var known known
	s.InTurn(others, func(l *framework.Line) {
		g := l.Gangs[0]
		s.Look(nil)
		switch m := grow.of[g.Key]; {
		case m == nil:
			if m := known.look(s, g); grow.note(m) {
				grow.later(l, m)
			}
		case !m.due:
			grow.later(l, m)
		default:
			s.Guard(g)
			m.placeOwn(s)
			s.Unguard()
		}
		if inOrder(s, l) {
			l.Gangs = l.Gangs[:1]
		}
		grow.turn(l)
	})
	openGates(s)
}

// inOrder reports whether the queue is served in order and the gang that was just
// looked at found no place; those behind it then wait.
func inOrder(s *framework.Session, l *framework.Line) bool {
	first := l.Gangs[0]
	u := s.Waits(first)
	if l.Queue.Dequeue != snapshot.DequeueFIFO || u == nil || u.Satisfied {
		return false
	}
	switch u.Code {
	case plan.NotEnoughPods, plan.NotEnoughTaskPods, plan.Gated, plan.UnsupportedRequest, plan.DatasetNotFound, plan.DataStaging:
		return false // it has no claim to a place yet
	}
	why := plan.Bound(fmt.Sprintf("queue %q is served in order, and %s is before it", l.Queue.Name, first.Name))
	for _, g := range l.Gangs[1:] {
		s.Wait(g, plan.Unschedulable{Code: plan.OutOfTurn, Satisfied: g.Have() >= g.Minimum() || s.Placing(g), Message: why})
	}
	return true
}

// candidate reports whether the gang is to be looked at, and notes why not.
func candidate(s *framework.Session, g *snapshot.Gang) bool {
	switch {
	case g.Absent:
		if g.Waiting > 0 {
			s.Wait(g, plan.Unschedulable{Code: plan.PodGroupNotFound, Message: fmt.Sprintf("PodGroup %q does not exist", g.Name)})
		}
		return false
	case !g.Plain && !g.Native && (g.Status.Phase == "" || g.Status.Phase == snapshot.GroupPending) && !partial(g):
		return false // enqueue has to let it in first, and that has to be seen; what holds places was let in
	case g.Waiting == 0 && !g.Gated && len(openAttempts(g)) == 0:
		return false
	case g.Hold != "":
		s.Wait(g, plan.Unschedulable{Code: cmp.Or(plan.Code(g.HoldCode), plan.Held), Satisfied: g.Have() >= g.Minimum(), Message: g.Hold})
		return false
	}
	if u, ok := framework.QueueReason(s, g); !ok {
		u.Satisfied = g.Have() >= g.Minimum() // a gang that runs goes on to
		s.Wait(g, u)
		return false
	}
	if i := slices.IndexFunc(g.Data, func(d snapshot.Data) bool { return d.Unknown }); i >= 0 && g.Have() == 0 {
		s.Wait(g, plan.Unschedulable{Code: plan.DatasetNotFound, Message: fmt.Sprintf(
			"annotation %s: Dataset %q does not exist in namespace %s: make it, or correct the name", wellknown.Datasets, g.Data[i].Name, g.Namespace)})
		return false
	}
	return true
}

func partial(g *snapshot.Gang) bool {
	have := g.Have()
	return have > 0 && have < g.Minimum() || len(openAttempts(g)) > 0
}

// placeOwn tries to place the minimum of one gang, which may use the room that is kept for
// it, and says what it may get besides, nil for nothing.
func placeOwn(s *framework.Session, g *snapshot.Gang) *more {
	s.Look(g)
	s.Unhold(g)
	defer s.Rehold(g)
	return place(s, g)
}

// place tries to place the minimum of one gang.
func place(s *framework.Session, g *snapshot.Gang) *more {
	var waiting []*snapshot.Pod
	for _, p := range g.Pods {
		if p.Waits() {
			waiting = append(waiting, p)
		}
	}
	slices.SortStableFunc(waiting, s.PlacingOrder(g))
	have := g.Have()
	var used []*snapshot.Pod
	for _, a := range openAttempts(g) {
		took := complete(s, g, a, waiting)
		waiting = framework.Without(waiting, took)
		used = append(used, took...)
	}
	if s.Waits(g) != nil {
		return nil // an attempt of it still lacks members: nothing is added beside it
	}
	have += int64(len(used))
	must, reason := minimum(g, waiting, have, used)
	switch {
	case reason != nil && scaledDown(s, g, reason.Code):
		makeUp(s, g, waiting, used, *reason)
		return nil
	case reason != nil:
		s.Wait(g, *reason)
		return nil
	case len(waiting) == 0:
		return nil
	case g.Loose:
		placeEach(s, g, waiting, have > 0)
		return nil
	case have >= g.Minimum() && len(must) == 0:
		return &more{gang: g, waiting: waiting, used: used}
	}
	fit := placeMust(s, g, must, false)
	if fit == nil {
		return nil
	}
	s.Commit(g, fit.Domain, "", 0, fit.Assigned, nil)
	rest := framework.Without(waiting, must)
	if len(rest) == 0 {
		return nil
	}
	return &more{gang: g, waiting: rest, beside: fit}
}

// placeEach places the members of a loose gang one by one. Where one found no
// place, others of its kind find none either.
func placeEach(s *framework.Session, g *snapshot.Gang, waiting []*snapshot.Pod, satisfied bool) {
	var short []*snapshot.Class
	for _, p := range waiting {
		if slices.Contains(short, p.Class) {
			continue
		}
		fit := placeMust(s, g, []*snapshot.Pod{p}, satisfied)
		if fit == nil {
			short = append(short, p.Class)
			continue
		}
		s.Commit(g, fit.Domain, "", 0, fit.Assigned, nil)
		satisfied = true
	}
	if u := s.Waits(g); u != nil {
		again := *u
		again.Pods, again.Satisfied = nil, satisfied
		s.Wait(g, again) // of those that are left
	}
}

// placeMust finds places, in the transaction, for those that have to be placed together.
// It is nil, and why is noted, where there are none.
func placeMust(s *framework.Session, g *snapshot.Gang, must []*snapshot.Pod, satisfied bool) *framework.Fit {
	if u := refused(s, g, must); u != nil {
		u.Satisfied = satisfied
		s.Wait(g, *u)
		return nil
	}
	job := framework.NewJob(g, must)
	if u := s.OverQuota(g, must); u != nil {
		u.Satisfied = satisfied
		if !satisfied {
			s.Block(framework.Blocked{Gang: g, Job: job, Must: must}) // those whose room it may take may be of its queue
		}
		if s.Nominated(g) {
			u.Code, u.Message = plan.Nominated, "room was made for it and is kept until the evicted pods are gone; now "+u.Message
		}
		s.Wait(g, *u)
		return nil
	}
	var reasons []plan.DomainReason
	fit := s.FindKept(g, job, must)
	if fit == nil {
		fit, reasons = s.FindStaged(g, job, must)
	}
	if fit != nil && len(fit.Copies) > 0 {
		if satisfied || !s.SoonerThan(fit, framework.Blocked{Gang: g, Job: job, Must: must}) {
			u := s.AwaitCopies(fit)
			u.Satisfied = satisfied
			s.Wait(g, u)
			return nil
		}
		fit, reasons = s.FindDomain(g, job, must, nil)
	}
	if fit == nil {
		fit = s.FindBeside(g, job, must)
	}
	if fit == nil {
		u := noFit(g, reasons)
		if node := s.Stranded(g); node != "" && len(reasons) == 0 && !g.Loose {
			u.Message = fmt.Sprintf("members of it are bound to node %s, which does not exist: they have to go, or the node has to come back, before others are placed", node)
		}
		u.Satisfied = satisfied
		if !satisfied {
			b := framework.Blocked{Gang: g, Job: job, Must: must}
			s.PlanStart(b, &u)
			if by := s.Barred(b); by != "" && u.Code != plan.Reserved {
				u.Code, u.Message = plan.Reserved, "it would fit but for reservation "+by+"; "+u.Message
			}
			s.Block(b)
		}
		if !s.GiveUpKept(g, must) && s.Nominated(g) {
			u.Code, u.Message = plan.Nominated, "room was made for it and is kept until the evicted pods are gone; now "+u.Message
		}
		s.Wait(g, u)
		return nil
	}
	return fit
}

// alive reports whether the pod is, or can become, a placed member.
func alive(p *snapshot.Pod) bool {
	return p.Counts() || p.Node == "" && p.Phase == snapshot.PodPending && !p.Terminating
}

// tooFew says that fewer pods, or whole parts of a policy, exist than are needed, or that
// gates hold back those that are missing.
func tooFew(g *snapshot.Gang, code plan.Code, what, of string, exist, need int64) *plan.Unschedulable {
	if exist >= need && g.Gated {
		return &plan.Unschedulable{Code: plan.Gated, Message: fmt.Sprintf("%s has %d %s, but scheduling gates hold too many of them back", what, exist, of)}
	}
	return &plan.Unschedulable{Code: code, Message: fmt.Sprintf("%s has %d %s and needs %d%s", what, exist, of, need, strangers(g))}
}

// strangers says which pods name the gang and another scheduler: they are none of those that
// it has.
func strangers(g *snapshot.Gang) string {
	var out strings.Builder
	for _, s := range g.Strangers {
		what := "pods that name it name"
		if s.Pods == 1 {
			what = "pod that names it names"
		}
		fmt.Fprintf(&out, "; %d %s another scheduler, %s", s.Pods, what, s.Scheduler)
	}
	return out.String()
}

// refused says why a member cannot be placed anywhere.
func refused(s *framework.Session, g *snapshot.Gang, pods []*snapshot.Pod) *plan.Unschedulable {
	for _, p := range pods {
		if p.Class.Unsupported != "" {
			return &plan.Unschedulable{Code: plan.UnsupportedRequest, Message: fmt.Sprintf("pod %s has %s, which is not supported yet", p.Name, p.Class.Unsupported)}
		}
		if len(p.Class.Missing) > 0 {
			q := p.Class.Missing[0]
			return &plan.Unschedulable{Code: plan.NoCapacity, Message: fmt.Sprintf("pod %s needs %s %s, and no node offers any", p.Name, plan.Amount(q.Name, q.Amount), q.Name)}
		}
	}
	return nil
}

func noFit(g *snapshot.Gang, reasons []plan.DomainReason) plan.Unschedulable {
	code := plan.NodesDontMatch
	for _, r := range reasons {
		if r.Code == plan.NoCapacity {
			code = plan.NoCapacity
		}
	}
	// Domains that admit the gang tell more than those that do not.
	slices.SortStableFunc(reasons, func(a, b plan.DomainReason) int {
		return order(a.Code) - order(b.Code)
	})
	message := plan.DomainWords(reasons)
	if len(reasons) == 0 {
		message = "there are no nodes"
	}
	return plan.Unschedulable{Code: code, Message: message, Domains: reasons}
}

func order(c plan.Code) int {
	if c == plan.NoCapacity {
		return 0
	}
	return 1
}
