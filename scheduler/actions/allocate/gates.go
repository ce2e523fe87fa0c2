package allocate

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// gates counts what pods ask for that are let through their queue's gate.
type gates struct {
	s *framework.Session
	// through is what those ask for, by queue and resource, that have no place yet.
	through map[string]map[string]int64
}

// openGates takes away the gate of pods that their queue has room for, whether or not
// there is a node: from then on what they lack is for autoscalers to see. What the
// cluster has at the moment does not count, since more is to come. A pod that was let
// through counts against its queue until it is placed, so that no more come into sight
// than the queue may hold. The pods that a gang's minimum lacks go together.
func openGates(s *framework.Session) {
	var gated []*snapshot.Gang
	for _, g := range s.Snapshot.Gangs {
		if g.BeforeGate && candidate(s, g) {
			gated = append(gated, g)
		}
	}
	if len(gated) == 0 {
		return
	}
	all := gates{s: s, through: map[string]map[string]int64{}}
	for _, g := range s.Snapshot.Gangs {
		for _, p := range g.Pods {
			if p.Gate == snapshot.GateOpen && p.Waits() && !s.IsPlaced(p) {
				all.count(g.Queue, asked([]*snapshot.Pod{p}))
			}
		}
	}
	slices.SortFunc(gated, s.CompareGangs)
	for _, g := range gated {
		s.Look(g)
		all.of(g)
	}
	s.Look(nil)
}

// of opens the gates of one gang.
func (a *gates) of(g *snapshot.Gang) {
	var closed []*snapshot.Pod
	for _, p := range g.Pods {
		if p.BeforeGate() {
			closed = append(closed, p)
		}
	}
	slices.SortStableFunc(closed, a.s.PlacingOrder(g))
	lacks := max(g.Minimum()-g.Have()-int64(g.Waiting), 0)
	if lacks > int64(len(closed)) {
		return // others hold the gang back, or its pods are yet to come
	}
	if r := a.open(g, closed[:lacks]); r != nil {
		a.s.Wait(g, plan.Unschedulable{Code: plan.OverQuota, Message: r.Words() + "; its pods are gated until there is room"})
		return
	}
	if u := a.s.Waits(g); lacks > 0 && u != nil && u.Code == plan.Gated {
		u.Early = true // what held it back is being taken away
	}
	var refusal *entitlement.Refusal
	for _, p := range closed[lacks:] {
		if r := a.open(g, []*snapshot.Pod{p}); r != nil {
			refusal = r
		}
	}
	if refusal != nil && lacks == 0 && a.s.Waits(g) == nil {
		a.s.Wait(g, plan.Unschedulable{Code: plan.OverQuota, Satisfied: g.Have() >= g.Minimum(), Message: refusal.Words() + "; further pods are gated until there is room"})
	}
}

// open lets pods through together, or says which queue has no room for them.
func (a *gates) open(g *snapshot.Gang, pods []*snapshot.Pod) *entitlement.Refusal {
	need := asked(pods)
	for _, q := range a.s.Ledger.Above(g.Queue) {
		if q.Spec == nil {
			continue
		}
		for _, most := range q.Spec.Capability {
			held := a.through[q.Name][most.Name]
			if d, known := a.s.Snapshot.Dims.Index(most.Name); known {
				held = resource.Add(held, q.Held[d])
			}
			if n := need[most.Name]; n > 0 && resource.Add(held, n) > most.Amount {
				return &entitlement.Refusal{Queue: q.Name, Resource: most.Name, Need: n, Held: held, Limit: most.Amount}
			}
		}
	}
	a.count(g.Queue, need)
	for _, p := range pods {
		a.s.Plan.Opened = append(a.s.Plan.Opened, plan.PodRef{UID: p.UID, Namespace: p.Namespace, Name: p.Name})
	}
	return nil
}

// count adds to a queue and those above it.
func (a *gates) count(queue string, need map[string]int64) {
	for _, q := range a.s.Ledger.Above(queue) {
		if a.through[q.Name] == nil {
			a.through[q.Name] = map[string]int64{}
		}
		for name, n := range need {
			a.through[q.Name][name] = resource.Add(a.through[q.Name][name], n)
		}
	}
}

// asked is what pods request, also of what no node offers.
func asked(pods []*snapshot.Pod) map[string]int64 {
	out := map[string]int64{}
	for _, p := range pods {
		for _, r := range p.Class.Requests {
			out[r.Name] = resource.Add(out[r.Name], r.Amount)
		}
	}
	return out
}
