// Package networktopology prefers closer nodes, and among HyperNodes of one tier the
// fuller one, so that empty HyperNodes stay whole for gangs that need all of one:
// Volcano's network-topology-aware. What a gang's topology demands is the domain
// search's matter with or without it.
package networktopology

import (
	"cmp"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Resource is one that HyperNodes are filled up with.
type Resource struct {
	Name   string
	Weight int64
}

// whole is one in the unit of Fading.
const whole = 1000

// Plugin orders domains and scores nodes. It is configuration alone.
type Plugin struct {
	// Weight is what a full HyperNode counts; 0 leaves everything as it is.
	Weight    int64
	Resources []Resource
	// NormalPods has pods whose gang demands no topology prefer nodes of fuller
	// HyperNodes. Fading is what a tier counts there, in thousandths of the one below.
	NormalPods bool
	Fading     int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "network-topology-aware" }

// Open gives the plugin the cycle's HyperNodes.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.Weight == 0 || len(s.Snapshot.Places) == 0 {
		return p
	}
	c := &cycle{Plugin: p, session: s, at: map[*snapshot.Place]int{}, of: make([][]int, len(s.Snapshot.Nodes)), seen: make([]resource.Vector, len(s.Snapshot.Nodes))}
	for _, r := range p.Resources {
		if d, ok := s.Snapshot.Dims.Index(r.Name); ok && r.Weight > 0 {
			c.dims, c.weights = append(c.dims, d), append(c.weights, r.Weight)
		}
	}
	tiers := map[int64]int64{}
	for i, place := range s.Snapshot.Places {
		c.at[place] = i
		if _, ok := tiers[place.Tier]; !ok {
			tiers[place.Tier] = fade(p.Fading, place.Tier)
		}
		box := held{fades: tiers[place.Tier], total: make(resource.Vector, len(c.dims)), free: make(resource.Vector, len(c.dims))}
		for _, n := range place.Nodes {
			c.of[n] = append(c.of[n], i)
			for k, d := range c.dims {
				box.total[k] = resource.Add(box.total[k], s.Snapshot.Nodes[n].Total[d])
			}
		}
		c.places = append(c.places, box)
	}
	if !p.NormalPods {
		return ordering{c}
	}
	return c
}

// fade is what a tier counts, in thousandths: all at the first. The number of a tier is
// whatever somebody wrote.
func fade(by, tier int64) int64 {
	out := int64(whole)
	for t := int64(1); t < min(tier, mostFaded); t++ {
		out = out * by / whole
	}
	return out
}

// mostFaded is the tier from which on nothing more fades: all that fades at all is
// nothing by then.
const mostFaded = 1024

// held is what a HyperNode has and what is free of it, by the plugin's dimensions.
type held struct {
	fades       int64
	total, free resource.Vector
}

// cycle is the plugin in one cycle.
type cycle struct {
	Plugin
	session *framework.Session
	dims    []int
	weights []int64
	places  []held
	at      map[*snapshot.Place]int
	of      [][]int           // the HyperNodes of each node, by position
	seen    []resource.Vector // what was free of each node when the HyperNodes were last looked at
	normal  bool              // the gang that is placed demands no topology
}

// ordering is the plugin without a say about single nodes.
type ordering struct{ c *cycle }

func (ordering) Name() string { return Plugin{}.Name() }

// Enter looks at the HyperNodes as they are now.
func (o ordering) Enter(g *snapshot.Gang) { o.c.Enter(g) }

// CompareFits is the cycle's.
func (o ordering) CompareFits(a, b *framework.Fit) int { return o.c.CompareFits(a, b) }

// Enter looks at the HyperNodes as they are before a gang is placed: only what has
// changed since the last time is counted.
func (c *cycle) Enter(g *snapshot.Gang) {
	c.normal = g.Topology == nil
	for _, sub := range g.SubGroups {
		c.normal = c.normal && sub.Topology == nil
	}
	for n, places := range c.of {
		if len(places) == 0 {
			continue
		}
		if c.seen[n] == nil {
			c.seen[n] = make(resource.Vector, len(c.dims))
		}
		for k, d := range c.dims {
			free := max(c.session.Txn.FreeOf(n, d), 0)
			if change := free - c.seen[n][k]; change != 0 {
				c.seen[n][k] = free
				for _, p := range places {
					c.places[p].free[k] += change
				}
			}
		}
	}
}

// full is how full a HyperNode becomes with a request of an amount by dimension.
func (c *cycle) full(place int, ask func(dim int) int64) int64 {
	var mean fill.Weighted
	h := c.places[place]
	for k, d := range c.dims {
		if a := ask(d); a > 0 && h.total[k] > 0 {
			mean.Add(fill.Full(h.free[k], h.total[k], a), c.weights[k])
		}
	}
	return mean.Mean()
}

// CompareFits puts the closer nodes first, then the HyperNode that becomes fuller.
func (c *cycle) CompareFits(a, b *framework.Fit) int {
	if a.Domain.Virtual() || b.Domain.Virtual() {
		return 0
	}
	return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(c.score(b), c.score(a)))
}

func (c *cycle) score(f *framework.Fit) int64 {
	place, ok := c.at[f.Domain.Place]
	if !ok {
		return 0
	}
	return c.full(place, func(dim int) int64 {
		var sum int64
		for _, a := range f.Assigned {
			for _, p := range a.Pods {
				sum = resource.Add(sum, p.Class.Request[dim])
			}
		}
		return sum
	})
}

// JudgeRoom prefers nodes of fuller HyperNodes for pods that demand no topology.
func (c *cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, _ func(dim int) int64) (int64, string) {
	if !c.normal {
		return 0, ""
	}
	at, ok := c.session.Snapshot.Node(n.Name)
	if !ok {
		return 0, ""
	}
	var mean fill.Weighted
	for _, p := range c.of[at] {
		mean.Add(c.full(p, func(dim int) int64 { return class.Request[dim] }), c.places[p].fades)
	}
	return mean.Mean() * c.Weight, ""
}
