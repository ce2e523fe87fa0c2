package whatif

import (
	"cmp"
	"fmt"
	"iter"
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
	// Alone says that no other gang is like it. Such are counted apart where what is tried in
	// vain is bounded, so that they keep nobody else from a try.
	Alone bool
	// Others, when set, is asked in place of one that is Alone once too many of these were
	// tried in vain: what is no gang's own.
	Others func() Ask
	// Skip says that nothing is to be tried for it.
	Skip bool
	// Units lists those. It is asked again after somebody was sent away, unless Lasts.
	Units func() []*Unit
	// Lasts, when set, reports whether Units would list the same as for the last gang that is
	// like this one, but for gangs that have gone since or that room was made for.
	Lasts func() bool
	// Allow, when set, is asked for every unit in order, with those before it
	// granted, and grants it. Start it anew for every order that is tried.
	Allow func() func(*Unit) bool
	// TellSpared has the reason why the gang waits say who would go, were it not for what
	// protects them.
	TellSpared bool
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
	chosen []*Unit
}

// Make makes room for the gang and reports whether it did. Nobody is evicted
// when it is enough to wait for what is going away already.
func Make(s *framework.Session, a Ask, units []*Unit) bool {
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
func search(s *framework.Session, a Ask, units []*Unit, d framework.Domain) (found *way) {
	txn := s.Future(a.Blocked.Gang)
	t := &trial{s: s, txn: txn, ask: a, domain: d}
	s.WhatIf(txn, func() {
		t.measure()
		if fit := t.without(nil); fit != nil {
			found = &way{fit: fit}
			return
		}
		if s.Affords(a.Blocked, nil) { // else those who hold what its queue may are wanted wherever they are
			units = t.here(units)
		}
		for _, order := range orders {
			grants := newGrants(a, budgets(s), order(units))
			grants.reserved = func(u *Unit) bool { return s.Reserved(a.Blocked.Gang, grants.with(u)) }
			if w := t.least(grants); w != nil {
				found = w
				return
			}
		}
	})
	return found
}

// orders are the orders in which units are granted: the cheapest first and, should
// that use up what may go in small pieces, the largest first.
var orders = []func([]*Unit) []*Unit{
	func(us []*Unit) []*Unit { return us },
	func(us []*Unit) []*Unit {
		out := slices.Clone(us)
		slices.SortStableFunc(out, func(a, b *Unit) int {
			return cmp.Or(order(a.Whole)-order(b.Whole), cmp.Compare(len(b.Pods), len(a.Pods)))
		})
		return out
	},
}

// grants are the units that may all go together, worked out as far as they are asked
// for: mostly the first few suffice.
type grants struct {
	budgets map[string]int64
	allow   func(*Unit) bool
	// reserved, when set, reports units that stay, since others have reserved what they hold.
	reserved func(*Unit) bool
	left     []*Unit
	stays    map[*snapshot.Gang]bool // gangs of which a loose member must stay: then the rest stays as well
	units    []*Unit                 // those granted
}

func newGrants(a Ask, budgets map[string]int64, units []*Unit) *grants {
	g := &grants{budgets: budgets, left: units, stays: map[*snapshot.Gang]bool{}, allow: func(*Unit) bool { return true }}
	if a.Allow != nil {
		g.allow = a.Allow()
	}
	return g
}

// with lists what goes if a unit is granted as well.
func (g *grants) with(u *Unit) iter.Seq[framework.Gone] {
	return func(yield func(framework.Gone) bool) {
		for _, o := range g.units {
			if !yield(framework.Gone{Gang: o.Gang, Asks: o.Asks}) {
				return
			}
		}
		yield(framework.Gone{Gang: u.Gang, Asks: u.Asks})
	}
}

// upTo grants on until there are n, and reports whether there are.
func (g *grants) upTo(n int) bool {
	for len(g.units) < n && len(g.left) > 0 {
		u := g.left[0]
		g.left = g.left[1:]
		if u.Whole && g.stays[u.Gang] {
			continue
		}
		if !within(g.budgets, u) || g.reserved != nil && g.reserved(u) || !g.allow(u) {
			g.stays[u.Gang] = true
			continue
		}
		for _, p := range u.Pods {
			for _, b := range p.Budgets {
				g.budgets[b]--
			}
		}
		g.units = append(g.units, u)
	}
	return len(g.units) >= n
}

// Allowed picks those of units that may all go together under the disruption budgets. A
// whole gang goes only after what it can do without.
func Allowed(s *framework.Session, units []*Unit) []*Unit {
	g := newGrants(Ask{}, budgets(s), units)
	g.upTo(len(units))
	return g.units
}

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

func within(budgets map[string]int64, u *Unit) bool {
	if len(budgets) == 0 {
		return true
	}
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
	need   resource.Vector // of all that has to be placed
	free   resource.Vector // in the domain, of what is needed
}

// measure works out what is needed and what there is.
func (t *trial) measure() {
	t.need = make(resource.Vector, t.s.Snapshot.Dims.Len())
	for _, p := range t.ask.Blocked.Must {
		t.need.AddScaled(p.Class.Request, 1)
	}
	t.free = make(resource.Vector, len(t.need))
	for d, a := range t.need {
		if a > 0 {
			t.free[d] = t.s.FreeIn(t.domain, d)
		}
	}
}

// lacks returns what the domain still lacks with units gone, wherever they are: nothing
// fits before that is nothing.
func (t *trial) lacks(units []*Unit) resource.Vector {
	out := t.need.Clone()
	out.SubScaled(t.free, 1)
	for i := range units {
		out.SubScaled(units[i].Asks, 1)
	}
	return out
}

func (t *trial) hopeless(lacks resource.Vector) bool {
	for d, a := range t.need {
		if a > 0 && lacks[d] > 0 {
			return true
		}
	}
	return false
}

// here keeps the units that hold something in the domain. The loose members of a
// gang are kept with the rest of it, since it can go only after them.
func (t *trial) here(units []*Unit) []*Unit {
	here := func(u *Unit) bool { return slices.ContainsFunc(u.at, t.holds) }
	if !slices.ContainsFunc(units, func(u *Unit) bool { return !here(u) }) {
		return units
	}
	in := make([]bool, len(units))
	for i, u := range units {
		in[i] = here(u)
	}
	present := map[*snapshot.Gang]bool{}
	for i, u := range units {
		present[u.Gang] = present[u.Gang] || u.Whole && in[i]
	}
	var out []*Unit
	for i, u := range units {
		if in[i] || present[u.Gang] {
			out = append(out, u)
		}
	}
	return out
}

// holds reports whether a node is of the domain.
func (t *trial) holds(node int) bool {
	if node < 0 || t.domain.Virtual() {
		return node == t.domain.Node && node >= 0
	}
	return !t.s.Snapshot.Nodes[node].Virtual
}

// without tries the whole gang with units gone, and leaves all as it was.
func (t *trial) without(units []*Unit) *framework.Fit {
	if t.hopeless(t.lacks(units)) || !t.s.Affords(t.ask.Blocked, asked(units)) {
		return nil
	}
	mark := t.txn.Checkpoint()
	defer t.txn.Rollback(mark)
	for _, u := range units {
		for k, p := range u.Pods {
			if i := u.at[k]; i >= 0 {
				t.txn.Remove(i, p.Item(u.Gang.Key))
			}
		}
	}
	var fit *framework.Fit
	t.s.WhatIf(t.txn, func() {
		fit, _ = t.s.FindDomain(t.ask.Blocked.Gang, t.ask.Blocked.Job, t.ask.Blocked.Must, []framework.Domain{t.domain})
	})
	return fit
}

// prefix finds the first units of which the gang fits without, and how: it starts with
// as many as leave enough in sum, goes on in growing steps, and then back by halving.
func (t *trial) prefix(from *grants) (*framework.Fit, int) {
	lacks := t.lacks(nil)
	n := 0
	for n == 0 || t.hopeless(lacks) {
		if !from.upTo(n + 1) {
			return nil, 0
		}
		lacks.SubScaled(from.units[n].Asks, 1)
		n++
	}
	lo, hi := n, n // all below lo do not suffice
	fit := t.without(from.units[:hi])
	for step := 1; fit == nil; step *= 2 {
		lo = hi + 1
		from.upTo(hi + step)
		if hi = min(hi+step, len(from.units)); hi < lo {
			return nil, 0
		}
		fit = t.without(from.units[:hi])
	}
	for lo < hi {
		mid := (lo + hi) / 2
		if f := t.without(from.units[:mid]); f != nil {
			fit, hi = f, mid
		} else {
			lo = mid + 1
		}
	}
	return fit, hi
}

// least finds few units that suffice: the shortest prefix of which every one that is
// not needed stays after all.
func (t *trial) least(from *grants) *way {
	fit, n := t.prefix(from)
	if fit == nil {
		return nil
	}
	chosen := slices.Clone(from.units[:n])
	if near := t.touching(fit, chosen); len(near) < len(chosen) {
		if f := t.without(near); f != nil {
			fit, chosen = f, near
		}
	}
	for i := len(chosen) - 1; i >= 0; i-- { // the dearest stays first
		u := chosen[i]
		if !u.Whole && slices.ContainsFunc(chosen, func(o *Unit) bool { return o.Whole && o.Gang == u.Gang }) {
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
func (t *trial) touching(f *framework.Fit, units []*Unit) []*Unit {
	nodes := map[int]bool{}
	for _, a := range f.Assigned {
		nodes[a.Node] = true
	}
	whole := map[*snapshot.Gang]bool{}
	touches := func(u *Unit) bool {
		return slices.ContainsFunc(u.at, func(i int) bool { return nodes[i] })
	}
	for _, u := range units {
		whole[u.Gang] = whole[u.Gang] || u.Whole && touches(u)
	}
	return slices.DeleteFunc(slices.Clone(units), func(u *Unit) bool { return !whole[u.Gang] && !touches(u) })
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
