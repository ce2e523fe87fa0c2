package whatif

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Mover is a gang of real nodes that may be ended to run elsewhere.
type Mover struct {
	Gang *snapshot.Gang
	// Pods are all of it that is placed.
	Pods []*snapshot.Pod
	// Lost is the work that is lost, as of a Unit.
	Lost int64
}

// Movers lists the gangs that may be moved, the least lost work first: their owners
// have said so of every pod, and make each anew under its name. What is on a virtual
// node is not moved: its batch job would wait in the batch system's queue once more.
func Movers(s *framework.Session, r Rules, eligible func(*snapshot.Gang) bool) []Mover {
	by := map[*snapshot.Gang]*Mover{}
	whole := map[*snapshot.Gang]bool{}
	for _, u := range Units(s, r, eligible) {
		if by[u.Gang] == nil {
			by[u.Gang] = &Mover{Gang: u.Gang}
		}
		m := by[u.Gang]
		m.Pods, m.Lost = append(m.Pods, u.Pods...), m.Lost+u.Lost
		whole[u.Gang] = whole[u.Gang] || u.Whole
	}
	var out []Mover
	for g, m := range by {
		if whole[g] && movable(s, m.Pods) {
			slices.SortFunc(m.Pods, snapshot.ComparePods)
			out = append(out, *m)
		}
	}
	slices.SortFunc(out, func(a, b Mover) int {
		return cmp.Or(cmp.Compare(a.Lost, b.Lost), cmp.Compare(len(a.Pods), len(b.Pods)), cmp.Compare(b.Gang.CreatedAt, a.Gang.CreatedAt), strings.Compare(a.Gang.Key, b.Gang.Key))
	})
	return out
}

func movable(s *framework.Session, pods []*snapshot.Pod) bool {
	return !slices.ContainsFunc(pods, func(p *snapshot.Pod) bool {
		d, ok := s.DomainOf(p.Node)
		return !p.Movable || !ok || d.Virtual()
	})
}

const (
	// mostAlone bounds the gangs that are tried one by one, mostTogether how many are
	// moved for one.
	mostAlone    = 16
	mostTogether = 6
)

// move is one gang with its new places.
type move struct {
	Mover
	fit *framework.Fit
}

// Rearrange moves gangs so that one without room has some, if everybody that is moved
// has a place again and nobody's planned start is put off, and reports whether room is
// made. Who waits for pods that go by themselves has it already.
func Rearrange(s *framework.Session, b framework.Blocked, movers []Mover, action string) bool {
	var fit *framework.Fit
	var moves []move
	real := slices.DeleteFunc(s.DomainsFor(b.Gang), func(d framework.Domain) bool { return d.Virtual() })
	if len(real) == 0 || !s.Affords(b, nil) {
		return false // who is moved goes on holding what its queue may
	}
	starts := s.Starts(b.Gang)
	txn := s.Future(b.Gang)
	s.WhatIf(txn, func() {
		mark := txn.Checkpoint()
		if fit, _ = s.FindDomain(b.Gang, b.Job, b.Must, nil); fit != nil {
			return
		}
		txn.Rollback(mark)
		for _, set := range sets(movers) {
			if !allowed(budgets(s), set) {
				continue
			}
			if fit, moves = rearranged(s, txn, b, set, real, starts); fit != nil {
				return
			}
			txn.Rollback(mark)
			starts.Back()
		}
	})
	if fit == nil {
		return false
	}
	if len(moves) == 0 {
		s.Expect(b, fit)
		return true
	}
	until := s.Now.Add(Keep).UnixNano()
	g := b.Gang
	why := fmt.Sprintf("%s for %s/%s", action, g.Namespace, g.Name)
	for _, m := range moves {
		c := moved(s, m, action, why)
		c.For = g.Key
		s.Move(m.Gang, m.fit, until, c)
	}
	s.Claim(b, fit, until, plan.Claim{Action: action})
	s.Wait(g, plan.Unschedulable{Code: plan.Nominated, Message: fmt.Sprintf("%d gangs are moved by %s to make room on %s", len(moves), action, fit.Domain.Name)})
	return true
}

// Alike is equal for gangs for which Rearrange comes to the same: they also have to keep
// clear of the same planned starts.
func Alike(s *framework.Session, b framework.Blocked) string {
	return Likeness(s, b) + s.Reached(b.Gang, Keep)
}

// moved sends a gang's pods away and says where they go.
func moved(s *framework.Session, m move, action, why string) plan.Claim {
	c := plan.Claim{Action: action}
	for _, p := range m.Pods {
		e := s.Evict(m.Gang, p)
		e.Whole, e.Reason = true, action
		e.Message = why + ": it is moved as a whole, and room is kept for it on other nodes"
		c.Evictions = append(c.Evictions, e)
	}
	return c
}

// sets lists what is tried: the cheapest alone, then more and more of them together.
func sets(movers []Mover) [][]Mover {
	var out [][]Mover
	for i := range movers[:min(len(movers), mostAlone)] {
		out = append(out, movers[i:i+1])
	}
	for n := 2; n <= min(len(movers), mostTogether); n++ {
		out = append(out, movers[:n])
	}
	return out
}

func allowed(budgets map[string]int64, set []Mover) bool {
	var all Unit
	for _, m := range set {
		all.Pods = append(all.Pods, m.Pods...)
	}
	return within(budgets, &all)
}

// rearranged tries the gang with a set of others gone, and then these again. On
// success all are in the transaction.
func rearranged(s *framework.Session, txn *snapshot.Txn, b framework.Blocked, set []Mover, real []framework.Domain, starts *framework.Starts) (fit *framework.Fit, moves []move) {
	for _, m := range set {
		take(s, txn, m)
		starts.Without(m.Gang, m.Pods)
	}
	s.WhatIf(txn, func() { // there is more room than before
		defer s.Unguard()
		g := *b.Gang
		late(&g.GangSpec)
		starts.Guard(&g)
		if fit, _ = s.FindDomain(&g, b.Job, b.Must, real); fit == nil {
			return
		}
		if moves = placeAgain(s, set, real, starts); moves == nil {
			fit = nil
		}
	})
	return fit, moves
}

// late has the gang end as late as it may if it starts when those in its way have gone.
func late(g *snapshot.GangSpec) {
	if g.Estimate > 0 {
		g.Estimate = resource.Add(g.Estimate, int64(Keep))
	}
}

func take(s *framework.Session, txn *snapshot.Txn, m Mover) {
	for _, p := range m.Pods {
		if i, ok := s.Snapshot.Node(p.Node); ok {
			txn.Remove(i, p.Item(m.Gang.Key))
		}
	}
}

// placeAgain finds places for all of a set beside the planned starts, the largest first;
// nil when one has none.
func placeAgain(s *framework.Session, set []Mover, real []framework.Domain, starts *framework.Starts) []move {
	out := make([]move, 0, len(set))
	for _, m := range set {
		out = append(out, move{Mover: m})
	}
	size := func(m move) int64 {
		share, _ := m.Gang.Held.Dominant(s.Snapshot.Total)
		return share
	}
	slices.SortStableFunc(out, func(a, b move) int { return cmp.Compare(size(b), size(a)) })
	for i := range out {
		g := unplaced(s, out[i].Mover)
		starts.Guard(g)
		if out[i].fit, _ = s.FindDomain(g, g.Key+"/moved", g.Pods, real); out[i].fit == nil {
			return nil
		}
	}
	return out
}

// unplaced is the gang as if nothing of it were placed, with those pods that are.
func unplaced(s *framework.Session, m Mover) *snapshot.Gang {
	pods := make([]*snapshot.Pod, 0, len(m.Pods))
	for _, p := range m.Pods {
		c := *p
		c.Phase, c.Node, c.Attempt, c.Devices = snapshot.PodPending, "", "", nil
		pods = append(pods, &c)
	}
	spec := m.Gang.GangSpec
	late(&spec)
	return snapshot.NewGang(spec, pods, s.Snapshot.Dims)
}
