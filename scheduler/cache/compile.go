package cache

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// ordered lists the nodes that are seen, by name: sorting them in each cycle would
// cost more than most cycles.
func (c *Cache) ordered() []*nodeEntry {
	if c.inOrder == nil {
		c.inOrder = make([]*nodeEntry, 0, len(c.nodes))
		for _, e := range c.nodes {
			if e.spec != nil {
				c.inOrder = append(c.inOrder, e)
			}
		}
		slices.SortFunc(c.inOrder, func(a, b *nodeEntry) int { return strings.Compare(a.spec.Name, b.spec.Name) })
	}
	return c.inOrder
}

// recompile starts over with the table of names and the classes.
func (c *Cache) recompile() {
	var specs []snapshot.NodeSpec
	for _, e := range c.nodes {
		e.snap = nil
		if e.spec != nil {
			specs = append(specs, *e.spec)
		}
	}
	for _, g := range c.gangs {
		g.snap = nil
	}
	c.dims = snapshot.DimsOf(specs)
	c.classes = map[string]*snapshot.Class{}
}
