package cache

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// SetLoads takes in how busy nodes were measured to be, in place of what was
// measured before.
func (c *Cache) SetLoads(loads []snapshot.Load) {
	loads = slices.Clone(loads)
	slices.SortFunc(loads, func(a, b snapshot.Load) int { return strings.Compare(a.Node, b.Node) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.loads = loads // never changed: snapshots share it
	c.signal()
}

// RealNodes lists the real nodes that are known, in the order of their names. They
// must not be changed.
func (c *Cache) RealNodes() []snapshot.NodeSpec {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []snapshot.NodeSpec
	for _, e := range c.nodes {
		if e.spec != nil && !e.spec.Virtual {
			out = append(out, *e.spec)
		}
	}
	slices.SortFunc(out, func(a, b snapshot.NodeSpec) int { return strings.Compare(a.Name, b.Name) })
	return out
}
