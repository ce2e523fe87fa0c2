// Package repair sends back gangs that hold places which are of no use to them:
// members were lost, deleted or evicted and nobody could make up for them in time,
// or a scheduler died between two bindings. Allocate completes a gang where the rest of
// it is; when that has not been possible for the grace, what is left goes, and the
// gang is placed anew as a whole, wherever that is, or waits as a whole.
//
// What is left at its old place of a gang whose move was begun follows the rest of it.
//
// Where there are no pods to make up for those that are missing, since the gang's owner was
// scaled below its minimum, what runs stays: nothing would come of sending it back. What
// is lost of that allocate makes up for as far as there are pods.
//
// A gang is sent back once for each time it loses members: it comes back whole or
// not at all, so nothing goes in circles.
package repair

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Action is the repair action.
type Action struct {
	// Grace is how long a gang may be short; 0 is DefaultGrace.
	Grace time.Duration
	// Off lets such gangs be, and still says that they are short.
	Off bool
}

// DefaultGrace is long enough for a controller to make the pods anew, and for a
// node that is started again to come back.
const DefaultGrace = 5 * time.Minute

// Reason is the word of the plan for pods that this action sends back.
const Reason = "repair"

// Name is the action's name in configuration.
func (Action) Name() string { return "repair" }

// Run sends back what has been short for too long. It runs after everything that
// might still complete a gang.
func (a Action) Run(s *framework.Session) {
	for _, g := range s.Snapshot.Gangs {
		s.Look(g)
		s.FinishMove(g)
		if g.Unmade != "" {
			s.Short(g, g.Unmade+"; there are no pods to make up for the others, and what runs is left as it is")
		}
		if g.ShortSince == 0 || s.Placing(g) || s.Nominated(g) {
			continue
		}
		pods, why := short(s, g)
		if len(pods) == 0 {
			continue
		}
		a.send(s, g, pods, why)
	}
}

// short lists the members whose places are of no use, and says why that is.
func short(s *framework.Session, g *snapshot.Gang) ([]*snapshot.Pod, string) {
	var live []*snapshot.Pod
	for _, p := range g.Pods {
		if p.Lives() && !s.Evicted(p) {
			live = append(live, p)
		}
	}
	if why := g.Lacks(); why != "" {
		return live, why
	}
	// The gang as such has enough, but pods of a batch job only start all together.
	open := g.OpenAttempts()
	waits := slices.DeleteFunc(live, func(p *snapshot.Pod) bool {
		d, ok := s.DomainOf(p.Node)
		return !slices.Contains(open, p.Attempt) || ok && !d.Virtual()
	})
	if len(waits) == 0 {
		return nil, ""
	}
	return waits, fmt.Sprintf("%d members of attempt %s wait for others that do not come", len(waits), waits[0].Attempt)
}

func (a Action) send(s *framework.Session, g *snapshot.Gang, pods []*snapshot.Pod, why string) {
	grace := a.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	due := time.Unix(0, g.ShortSince).Add(grace)
	at := slices.IndexFunc(pods, func(p *snapshot.Pod) bool { return p.Protected != "" })
	switch {
	case a.Off:
		s.Short(g, why)
		return
	case at >= 0:
		s.Short(g, fmt.Sprintf("%s; it is left as it is, since of pod %s it is told that %s", why, pods[at].Name, pods[at].Protected))
		return
	case s.Now.Before(due):
		s.Short(g, fmt.Sprintf("%s; unless they are made up for by %s, what is left is sent back", why, due.UTC().Format(time.RFC3339)))
		return
	case slices.ContainsFunc(pods, func(p *snapshot.Pod) bool { return p.Assumed }):
		s.Short(g, why+"; a binding is under way")
		return
	}
	next := "to wait for a place as a whole"
	if domain := anew(s, g); domain != "" {
		next = "to be placed as a whole on " + domain
	}
	s.Short(g, fmt.Sprintf("%s; what was left was sent back %s", why, next))
	for _, p := range pods {
		e := s.Evict(g, p)
		e.Whole, e.Reason, e.Message = true, Reason, fmt.Sprintf("sent back %s: gang %s/%s: %s", next, g.Namespace, g.Name, why)
		s.Plan.Releases = append(s.Plan.Releases, e)
	}
}

// anew returns where the gang's minimum would fit if nothing of it were placed, ""
// for nowhere.
func anew(s *framework.Session, g *snapshot.Gang) string {
	var pods []*snapshot.Pod
	txn := s.Future(g)
	for _, p := range g.Pods {
		if p.Lives() {
			if i, ok := s.Snapshot.Node(p.Node); ok {
				txn.Remove(i, p.Item(g.Key))
			}
		}
		c := *p
		if !c.Terminal() || c.Lost { // as its owner will make it anew
			c.Phase, c.Node, c.Attempt, c.Devices, c.Terminating = snapshot.PodPending, "", "", nil, false
		}
		pods = append(pods, &c)
	}
	free := snapshot.NewGang(g.GangSpec, pods, s.Snapshot.Dims)
	must := minimum(free)
	if must == nil {
		return ""
	}
	domain := ""
	s.WhatIf(txn, func() {
		if fit, _ := s.FindDomain(free, g.Key+"/anew", must, s.Domains()); fit != nil {
			domain = fit.Domain.Name
		}
	})
	return domain
}

// minimum picks members enough for the gang to run, nil when there are too few. It is
// for words alone: allocate, which knows parts of gangs too, decides.
func minimum(g *snapshot.Gang) []*snapshot.Pod {
	var waiting, must []*snapshot.Pod
	for _, p := range g.Pods {
		if p.Waits() {
			waiting = append(waiting, p)
		}
	}
	slices.SortStableFunc(waiting, snapshot.ComparePlacing)
	need := map[string]int64{}
	for _, t := range g.TaskMinimums() {
		need[t.Task] = t.Min
	}
	rest := slices.DeleteFunc(waiting, func(p *snapshot.Pod) bool {
		if need[p.Task] <= 0 {
			return false
		}
		need[p.Task]--
		must = append(must, p)
		return true
	})
	for g.Left()+int64(len(must)) < g.Minimum() && len(rest) > 0 {
		must, rest = append(must, rest[0]), rest[1:]
	}
	if g.Left()+int64(len(must)) < g.Minimum() || len(must) == 0 {
		return nil
	}
	return must
}
