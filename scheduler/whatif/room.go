package whatif

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Ask is one attempt to make room.
type Ask struct {
	Blocked framework.Blocked
	// Like is equal for gangs for which the same others may be sent away.
	Like string
	// Units lists those. It is asked again after somebody was sent away.
	Units func() []Unit
	// Allow, when set, is asked for every unit in order, with those before it
	// granted, and grants it. Start it anew for every order that is tried.
	Allow func() func(Unit) bool
	// Action names who asks; Why says in one clause why a gang has to yield.
	Action string
	Why    func(victim *snapshot.Gang) string
}

// Keep is how long room is kept on the word of a plan alone. It outlasts what an
// eviction may take; pods that are still going away then are waited for anyway.
const Keep = 10 * time.Minute

// way is one way to make room.
type way struct {
	fit    *framework.Fit
	chosen []Unit
}

// Make makes room for the gang and reports whether it did. Nobody is evicted
// when it is enough to wait for what is going away already.
func Make(s *framework.Session, a Ask, units []Unit) bool {
	var best *way
	for _, d := range s.DomainsFor(a.Blocked.Gang) {
		w := search(s, a, units, d)
		if w != nil && (best == nil || compareWays(w, best) < 0) {
			best = w
		}
		if best != nil && len(best.chosen) == 0 {
			break
		}
	}
	if best == nil {
		return false
	}
	commit(s, a, best)
	return true
}

func compareWays(a, b *way) int {
	wa, la, pa := a.price()
	wb, lb, pb := b.price()
	return cmp.Or(cmp.Compare(wa, wb), cmp.Compare(la, lb), cmp.Compare(pa, pb), strings.Compare(a.fit.Domain.Name, b.fit.Domain.Name))
}

// price is how many whole gangs go, how much work is lost, and how many pods go.
func (w *way) price() (wholes int, lost int64, pods int) {
	for _, u := range w.chosen {
		wholes += order(u.Whole)
		lost = resource.Add(lost, u.Lost)
		pods += len(u.Pods)
	}
	return wholes, lost, pods
}

// search looks for the least that has to leave one domain.
func search(s *framework.Session, a Ask, units []Unit, d framework.Domain) (found *way) {
	txn := s.Future(a.Blocked.Gang)
	t := &trial{s: s, txn: txn, ask: a, domain: d}
	s.WhatIf(txn, func() {
		if fit := t.place(); fit != nil {
			found = &way{fit: fit}
			return
		}
		units = t.here(units)
		for _, order := range orders {
			granted := grant(a, budgets(s), order(units))
			if w := t.least(granted); w != nil {
				found = w
				return
			}
		}
	})
	return found
}

// orders are the orders in which units are granted: the cheapest first and, should
// that use up what may go in small pieces, the largest first.
var orders = []func([]Unit) []Unit{
	func(us []Unit) []Unit { return us },
	func(us []Unit) []Unit {
		out := slices.Clone(us)
		slices.SortStableFunc(out, func(a, b Unit) int {
			return cmp.Or(order(a.Whole)-order(b.Whole), cmp.Compare(len(b.Pods), len(a.Pods)))
		})
		return out
	},
}

// grant picks the units that may all go together.
func grant(a Ask, budgets map[string]int64, units []Unit) []Unit {
	allow := func(Unit) bool { return true }
	if a.Allow != nil {
		allow = a.Allow()
	}
	stays := map[*snapshot.Gang]bool{} // gangs of which a loose member must stay: then the rest stays as well
	var out []Unit
	for _, u := range units {
		if u.Whole && stays[u.Gang] {
			continue
		}
		if !within(budgets, u) || !allow(u) {
			stays[u.Gang] = true
			continue
		}
		for _, p := range u.Pods {
			for _, b := range p.Budgets {
				budgets[b]--
			}
		}
		out = append(out, u)
	}
	return out
}

// Allowed picks those of units that may all go together under the disruption budgets. A
// whole gang goes only after what it can do without.
func Allowed(s *framework.Session, units []Unit) []Unit { return grant(Ask{}, budgets(s), units) }

func budgets(s *framework.Session) map[string]int64 {
	out := map[string]int64{}
	for _, b := range s.Snapshot.Budgets {
		out[b.Name] = b.Allowed
	}
	for _, g := range s.Snapshot.Gangs {
		if len(out) == 0 {
			break
		}
		for _, p := range g.Pods {
			if s.Evicted(p) {
				for _, b := range p.Budgets {
					out[b]--
				}
			}
		}
	}
	return out
}

func within(budgets map[string]int64, u Unit) bool {
	need := map[string]int64{}
	for _, p := range u.Pods {
		for _, b := range p.Budgets {
			need[b]++
		}
	}
	for b, n := range need {
		if allowed, known := budgets[b]; known && n > allowed {
			return false
		}
	}
	return true
}

// trial tries placements in one domain with units gone.
type trial struct {
	s      *framework.Session
	txn    *snapshot.Txn
	ask    Ask
	domain framework.Domain
}

// here keeps the units that hold something in the domain. The loose members of a
// gang are kept with the rest of it, since it can go only after them.
func (t *trial) here(units []Unit) []Unit {
	present := map[*snapshot.Gang]bool{}
	in := func(u Unit) bool {
		return slices.ContainsFunc(u.Pods, func(p *snapshot.Pod) bool {
			d, ok := t.s.DomainOf(p.Node)
			return ok && d.Name == t.domain.Name
		})
	}
	for _, u := range units {
		if u.Whole && in(u) {
			present[u.Gang] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(units), func(u Unit) bool { return !present[u.Gang] && !in(u) })
}

// place tries the whole gang and takes it back.
func (t *trial) place() *framework.Fit {
	mark := t.txn.Checkpoint()
	fit, _ := t.s.FindDomain(t.ask.Blocked.Gang, t.ask.Blocked.Job, t.ask.Blocked.Must, []framework.Domain{t.domain})
	t.txn.Rollback(mark)
	return fit
}

// without tries the gang with units gone, and leaves all as it was.
func (t *trial) without(units []Unit) *framework.Fit {
	mark := t.txn.Checkpoint()
	defer t.txn.Rollback(mark)
	for _, u := range units {
		for _, p := range u.Pods {
			if i, ok := t.s.Snapshot.Node(p.Node); ok {
				t.txn.Remove(i, p.Item(u.Gang.Key))
			}
		}
	}
	var fit *framework.Fit
	t.s.WhatIf(t.txn, func() { fit = t.place() })
	return fit
}

// least finds few units that suffice: the shortest prefix, by halving, of which
// every one that is not needed stays after all.
func (t *trial) least(units []Unit) *way {
	if len(units) == 0 {
		return nil
	}
	fit := t.without(units)
	if fit == nil {
		return nil
	}
	lo, hi := 1, len(units)
	for lo < hi {
		mid := (lo + hi) / 2
		if f := t.without(units[:mid]); f != nil {
			fit, hi = f, mid
		} else {
			lo = mid + 1
		}
	}
	chosen := slices.Clone(units[:hi])
	if near := t.touching(fit, chosen); len(near) < len(chosen) {
		if f := t.without(near); f != nil {
			fit, chosen = f, near
		}
	}
	for i := len(chosen) - 1; i >= 0; i-- { // the dearest stays first
		u := chosen[i]
		if !u.Whole && slices.ContainsFunc(chosen, func(o Unit) bool { return o.Whole && o.Gang == u.Gang }) {
			continue // what is left of its gang goes: it cannot stay alone
		}
		fewer := slices.Delete(slices.Clone(chosen), i, i+1)
		if f := t.without(fewer); f != nil {
			fit, chosen = f, fewer
		}
	}
	return &way{fit: fit, chosen: chosen}
}

// touching keeps the units that hold something where the gang would go.
func (t *trial) touching(f *framework.Fit, units []Unit) []Unit {
	nodes := map[string]bool{}
	for _, a := range f.Assigned {
		nodes[t.s.Snapshot.Nodes[a.Node].Name] = true
	}
	whole := map[*snapshot.Gang]bool{}
	touches := func(u Unit) bool {
		return slices.ContainsFunc(u.Pods, func(p *snapshot.Pod) bool { return nodes[p.Node] })
	}
	for _, u := range units {
		whole[u.Gang] = whole[u.Gang] || u.Whole && touches(u)
	}
	return slices.DeleteFunc(slices.Clone(units), func(u Unit) bool { return !whole[u.Gang] && !touches(u) })
}

func commit(s *framework.Session, a Ask, w *way) {
	g := a.Blocked.Gang
	c := plan.Claim{Action: a.Action}
	whole := map[*snapshot.Gang]bool{}
	for _, u := range w.chosen {
		whole[u.Gang] = whole[u.Gang] || u.Whole
	}
	for _, u := range w.chosen {
		for _, p := range u.Pods {
			e := s.Evict(u.Gang, p)
			e.Whole, e.Reason = whole[u.Gang], a.Action
			e.Message = fmt.Sprintf("%s for %s/%s: %s", a.Action, g.Namespace, g.Name, a.Why(u.Gang))
			c.Evictions = append(c.Evictions, e)
		}
	}
	if len(c.Evictions) == 0 {
		s.Expect(a.Blocked, w.fit)
		return
	}
	s.Claim(a.Blocked, w.fit, s.Now.Add(Keep).UnixNano(), c)
	s.Wait(g, plan.Unschedulable{Code: plan.Nominated,
		Message: fmt.Sprintf("%d pods are evicted from %s by %s to make room", len(c.Evictions), w.fit.Domain.Name, a.Action)})
}
