// Package rescheduling moves gangs from nodes that are used too much to nodes that are
// hardly used: Volcano's rescheduling with its strategy lowNodeUtilization. A gang is
// moved as a whole, only if its owner says that it may be, and only if all of it has a
// place again by which less is used too much; so nothing is evicted in vain. By what pods
// ask for nothing goes in circles then, since what is used too much of all nodes together
// only becomes less. What is measured follows the pods, and may be other than was thought:
// so no gang comes back to a node that it was moved away from, for a day, and each stays
// longer after every move.
package rescheduling

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
)

const (
	// whole is all of a node in the unit of loads.
	whole = 1000
	// mostMoved and mostTried bound the gangs that one round moves, or tries to.
	mostMoved, mostTried = 8, 64
	// minRun is how long a pod runs at least before it is moved, as with consolidate.
	minRun = 5 * time.Minute
	// bonus is what an underused node is better by.
	bonus = 100
	// rest is how long a gang stays where it was moved to; the time doubles with each move.
	rest = 2 * whatif.Keep
)

// Plugin moves gangs. It is configuration alone.
type Plugin struct {
	// Interval is the time from one round to the next.
	Interval time.Duration
	// Fresh is how old a measurement may be; with an older one, or none, what pods ask
	// for counts.
	Fresh time.Duration
	// Under and Over are thresholds in thousandths by name of a resource: a node is
	// underused that is below all of Under, and overused one that is above one of Over.
	Under, Over map[string]int64
	// LowPriorityFirst moves gangs of low priority first, rather than those that lose
	// the least work.
	LowPriorityFirst bool
	// Queues are those whose gangs are moved; nil is all.
	Queues []string
	// Only are the pods that may be moved, besides; nil is any.
	Only *snapshot.Picks
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "rescheduling" }

// Picks are the pods that may be moved.
func (p Plugin) Picks() *snapshot.Picks { return p.Only }

// Open tells the plugin how much nodes are used.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, loads: map[string]load{}, under: map[string]bool{}, measured: map[string]measured{}}
	if len(p.Over) == 0 {
		return c
	}
	for _, n := range s.Snapshot.Nodes {
		if n.Virtual {
			continue
		}
		l := p.loadOf(s, n)
		c.loads[n.Name] = l
		if m, ok := p.measuredOf(s, n); ok {
			for name := range l {
				if v, ok := m[name]; ok {
					l[name] = v
				}
			}
		}
		if n.Ready && !n.Unschedulable && below(l, p.Under) {
			c.under[n.Name] = true
		}
	}
	return c
}

// load is how much of a node is used in thousandths, by name of a resource.
type load map[string]int64

func (p Plugin) loadOf(s *framework.Session, n *snapshot.Node) load {
	out := load{}
	for _, names := range []map[string]int64{p.Under, p.Over} {
		for name := range names {
			if d, ok := s.Snapshot.Dims.Index(name); ok && n.Total[d] > 0 {
				out[name] = part(n.Used()[d], n.Total[d])
			}
		}
	}
	return out
}

// measured is what was measured of a node, and what its pods ask for together.
type measured struct {
	load  load
	asked resource.Vector
	pods  int64
}

// measuredOf is what was measured of a node, and whether that counts.
func (p Plugin) measuredOf(s *framework.Session, n *snapshot.Node) (load, bool) {
	l, ok := s.Snapshot.Load(n.Name)
	if !ok || s.Now.UnixNano()-l.At > int64(p.Fresh) {
		return nil, false
	}
	return load{"cpu": l.CPU, "memory": l.Memory}, true
}

// measure notes what was measured of each node and what its pods ask for. Only a round
// needs that, and most cycles have none.
func (c cycle) measure(s *framework.Session) {
	for _, n := range s.Snapshot.Nodes {
		if c.loads[n.Name] == nil {
			continue
		}
		if l, ok := c.measuredOf(s, n); ok {
			c.measured[n.Name] = measured{load: l, asked: n.Used().Clone(), pods: int64(len(n.Residents))}
		}
	}
}

// share is the part of what was measured that a pod of the class is taken to use, as an
// amount: who asks for twice as much uses twice as much, and where nobody asks for any all
// use the same. It is 0 where nothing was measured.
func (m measured) share(name string, dim int, class *snapshot.Class, total int64) int64 {
	v, ok := m.load[name]
	switch {
	case !ok || m.pods == 0:
		return 0
	case m.asked[dim] <= 0:
		return resource.Mul(v, total) / whole / m.pods
	}
	return scaled(resource.Mul(v, total)/whole, class.Request[dim], m.asked[dim])
}

// scaled is a times b by c, for b up to c, without more than 64 bits.
func scaled(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(max(a, 0)), uint64(max(min(b, c), 0))) //nolint:gosec // neither is negative
	q, _ := bits.Div64(hi, lo, uint64(c))                              //nolint:gosec // positive, and the quotient is at most a
	return int64(q)                                                    //nolint:gosec // at most a
}

func part(used, total int64) int64 { return resource.Mul(used, whole) / total }

func below(l load, most map[string]int64) bool {
	for name, m := range most {
		if l[name] >= m {
			return false
		}
	}
	return true
}

// excess is what is used too much of a node; 0 when it is not overused.
func excess(l load, most map[string]int64) (sum int64) {
	for name, m := range most {
		sum += max(l[name]-m, 0)
	}
	return sum
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	loads    map[string]load     // of real nodes
	under    map[string]bool     // those that are underused
	measured map[string]measured // of those that were measured, before anybody is moved
}

// Score puts pods on underused nodes first: what was moved there goes there.
func (c cycle) Score(_ *snapshot.Class, n *snapshot.Node) int64 {
	if c.under[n.Name] {
		return bonus
	}
	return 0
}

// Rearrange moves gangs, once in an interval, and not while one is being moved: another
// would go for what that one does already, as after a restart, which knows of no round.
func (c cycle) Rearrange(s *framework.Session) {
	if len(c.under) == 0 || s.SinceRound(c.Name()) < c.Interval || !c.overused() || s.MoveUnderWay() {
		return
	}
	c.measure(s)
	movers := whatif.Movers(s, whatif.Rules{MinRun: minRun}, func(g *snapshot.Gang) bool {
		return (c.Queues == nil || slices.Contains(c.Queues, g.Queue)) && !g.MovedBy(s.Now).Rests(s.Now, rest)
	})
	movers = slices.DeleteFunc(movers, func(m whatif.Mover) bool {
		return !slices.ContainsFunc(m.Pods, c.suffers) || c.Only != nil && slices.ContainsFunc(m.Pods, func(p *snapshot.Pod) bool { return !p.Picked })
	})
	if c.LowPriorityFirst {
		slices.SortStableFunc(movers, func(a, b whatif.Mover) int { return cmp.Compare(a.Gang.Priority, b.Gang.Priority) })
	}
	first, others := turns(movers, s.Turn(c.Name()))
	moved := c.move(s, first, 0)
	last := ""
	for i := range others {
		if moved == mostMoved {
			break
		}
		last = others[i].Gang.Key
		moved = c.move(s, others[i:i+1], moved)
	}
	s.NoteRound(c.Name(), last)
}

// turns picks whom a round looks at: the first in order, and of the others those whose
// turn it is after the last of the round before, by their names.
func turns(movers []whatif.Mover, last string) (first, others []whatif.Mover) {
	if len(movers) <= mostTried {
		return movers, nil
	}
	const half = mostTried / 2
	first, others = movers[:half], slices.Clone(movers[half:])
	byKey := func(m whatif.Mover, key string) int { return strings.Compare(m.Gang.Key, key) }
	slices.SortFunc(others, func(a, b whatif.Mover) int { return byKey(a, b.Gang.Key) })
	at, found := slices.BinarySearchFunc(others, last, byKey)
	if found {
		at++
	}
	return first, slices.Concat(others[at:], others[:at])[:half]
}

// move moves those of movers that have a better place and still suffer, and counts them.
func (c cycle) move(s *framework.Session, movers []whatif.Mover, moved int) int {
	const why = "from nodes that are used too much to nodes that are hardly used"
	for _, m := range movers {
		if moved == mostMoved {
			break
		}
		if !slices.ContainsFunc(m.Pods, c.suffers) {
			continue // others have gone, and that was enough
		}
		var after map[string]load
		if whatif.Relocate(s, m, c.Name(), why, func(fit *framework.Fit) bool {
			after = c.after(s, m, fit)
			return after != nil
		}) {
			moved++
			maps.Copy(c.loads, after)
		}
	}
	return moved
}

func (c cycle) overused() bool {
	for _, l := range c.loads {
		if excess(l, c.Over) > 0 {
			return true
		}
	}
	return false
}

// suffers reports whether a pod is on an overused node.
func (c cycle) suffers(p *snapshot.Pod) bool { return excess(c.loads[p.Node], c.Over) > 0 }

// after is how much the nodes that a move touches are used after it, nil where the move
// is no good: it has to make less overused, and nobody may come to a node but an
// underused one that the gang has not left before, which must not be overused then. A pod
// takes along what it is taken to use where it is, and at least what it asks for.
func (c cycle) after(s *framework.Session, m whatif.Mover, fit *framework.Fit) map[string]load {
	out := map[string]load{}
	at := func(n *snapshot.Node) load {
		if out[n.Name] == nil {
			out[n.Name] = maps.Clone(c.loads[n.Name])
		}
		return out[n.Name]
	}
	net := map[string]int64{} // pods that come
	most := map[*snapshot.Class]map[string]int64{}
	for _, p := range m.Pods {
		if i, ok := s.Snapshot.Node(p.Node); ok {
			n := s.Snapshot.Nodes[i]
			c.leave(s, at(n), n, p.Class, most)
			net[n.Name]--
		}
	}
	for _, a := range fit.Assigned {
		n := s.Snapshot.Nodes[a.Node]
		for _, p := range a.Pods {
			arrive(s, at(n), n, p.Class, most)
			net[n.Name]++
		}
	}
	left := m.Gang.MovedBy(s.Now)
	var before, then int64
	for name, l := range out {
		before, then = before+excess(c.loads[name], c.Over), then+excess(l, c.Over)
		been := left != nil && slices.Contains(left.From, name)
		if net[name] > 0 && (!c.under[name] || been || excess(l, c.Over) > 0) {
			return nil
		}
	}
	if then >= before {
		return nil
	}
	return out
}

// leave takes off a node what a pod is taken to use there, and notes the most that one of
// its class uses anywhere.
func (c cycle) leave(s *framework.Session, l load, n *snapshot.Node, class *snapshot.Class, most map[*snapshot.Class]map[string]int64) {
	if most[class] == nil {
		most[class] = map[string]int64{}
	}
	measured, known := c.measured[n.Name]
	for name := range l {
		d, ok := s.Snapshot.Dims.Index(name)
		if !ok || n.Total[d] <= 0 {
			continue
		}
		use := class.Request[d]
		if _, ok := measured.load[name]; known && ok {
			use = measured.share(name, d, class, n.Total[d])
		}
		most[class][name] = max(most[class][name], use, class.Request[d])
		l[name] = max(0, l[name]-part(use, n.Total[d]))
	}
}

func arrive(s *framework.Session, l load, n *snapshot.Node, class *snapshot.Class, most map[*snapshot.Class]map[string]int64) {
	for name := range l {
		if d, ok := s.Snapshot.Dims.Index(name); ok && n.Total[d] > 0 {
			l[name] += part(max(most[class][name], class.Request[d]), n.Total[d])
		}
	}
}
