// Package rescheduling moves gangs from nodes that are used too much to nodes that are
// hardly used: Volcano's rescheduling with its strategy lowNodeUtilization. A gang is
// moved as a whole, only if its owner says that it may be, and only if all of it has a
// place again by which less is used too much; so nothing is evicted in vain and nothing
// goes in circles.
package rescheduling

import (
	"cmp"
	"maps"
	"slices"
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
	// Nobody has nobody moved.
	Nobody bool
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "rescheduling" }

// Open tells the plugin how much nodes are used.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	c := cycle{Plugin: p, loads: map[string]load{}, under: map[string]bool{}}
	if p.Nobody || len(p.Over) == 0 {
		return c
	}
	for _, n := range s.Snapshot.Nodes {
		if n.Virtual {
			continue
		}
		l := p.loadOf(s, n)
		c.loads[n.Name] = l
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
				var used int64
				for _, r := range n.Residents {
					used = resource.Add(used, r.Class.Request[d])
				}
				out[name] = part(used, n.Total[d])
			}
		}
	}
	if l, ok := s.Snapshot.Load(n.Name); ok && s.Now.UnixNano()-l.At <= int64(p.Fresh) {
		for name, v := range map[string]int64{"cpu": l.CPU, "memory": l.Memory} {
			if _, ok := out[name]; ok {
				out[name] = v
			}
		}
	}
	return out
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
	loads map[string]load // of real nodes
	under map[string]bool // those that are underused
}

// Score puts pods on underused nodes first: what was moved there goes there.
func (c cycle) Score(_ *snapshot.Class, n *snapshot.Node) int64 {
	if c.under[n.Name] {
		return bonus
	}
	return 0
}

// Revoke moves gangs, once in an interval. What is moved is in the plan with its new
// places, and nobody is sent away besides.
func (c cycle) Revoke(s *framework.Session) []framework.Revocation {
	if len(c.under) == 0 || s.SinceRound(c.Name()) < c.Interval || !c.overused() {
		return nil
	}
	s.NoteRound(c.Name())
	movers := whatif.Movers(s, whatif.Rules{MinRun: minRun}, func(g *snapshot.Gang) bool {
		return c.Queues == nil || slices.Contains(c.Queues, g.Queue)
	})
	movers = slices.DeleteFunc(movers, func(m whatif.Mover) bool { return !slices.ContainsFunc(m.Pods, c.suffers) })
	if c.LowPriorityFirst {
		slices.SortStableFunc(movers, func(a, b whatif.Mover) int { return cmp.Compare(a.Gang.Priority, b.Gang.Priority) })
	}
	moved := 0
	for _, m := range movers[:min(len(movers), mostTried)] {
		if moved == mostMoved {
			break
		}
		if !slices.ContainsFunc(m.Pods, c.suffers) {
			continue // others have gone, and that was enough
		}
		var after map[string]load
		why := "from nodes that are used too much to nodes that are hardly used"
		if whatif.Relocate(s, m, c.Name(), why, func(fit *framework.Fit) bool {
			after = c.after(s, m, fit)
			return after != nil
		}) {
			moved++
			maps.Copy(c.loads, after)
		}
	}
	return nil
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
// underused one, which must not be overused then. A pod takes along what it asks for.
func (c cycle) after(s *framework.Session, m whatif.Mover, fit *framework.Fit) map[string]load {
	out := map[string]load{}
	at := func(n *snapshot.Node) load {
		if out[n.Name] == nil {
			out[n.Name] = maps.Clone(c.loads[n.Name])
		}
		return out[n.Name]
	}
	net := map[string]int64{} // pods that come
	for _, p := range m.Pods {
		if i, ok := s.Snapshot.Node(p.Node); ok {
			n := s.Snapshot.Nodes[i]
			change(s, at(n), n, p.Class, -1)
			net[n.Name]--
		}
	}
	for _, a := range fit.Assigned {
		n := s.Snapshot.Nodes[a.Node]
		for _, p := range a.Pods {
			change(s, at(n), n, p.Class, 1)
			net[n.Name]++
		}
	}
	var before, then int64
	for name, l := range out {
		before, then = before+excess(c.loads[name], c.Over), then+excess(l, c.Over)
		if net[name] > 0 && (!c.under[name] || excess(l, c.Over) > 0) {
			return nil
		}
	}
	if then >= before {
		return nil
	}
	return out
}

func change(s *framework.Session, l load, n *snapshot.Node, class *snapshot.Class, sign int64) {
	for name := range l {
		if d, ok := s.Snapshot.Dims.Index(name); ok && n.Total[d] > 0 {
			l[name] = max(0, l[name]+sign*part(class.Request[d], n.Total[d]))
		}
	}
}
