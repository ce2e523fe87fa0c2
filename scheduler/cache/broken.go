package cache

import (
	"maps"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// noteBroken remembers what a node tells anew that cannot be read.
func (c *Cache) noteBroken(was *snapshot.NodeSpec, is snapshot.NodeSpec) {
	if is.Broken == "" {
		delete(c.broken, is.Name)
		return
	}
	if was != nil && was.Broken == is.Broken {
		return
	}
	if c.broken == nil {
		c.broken = map[string]string{}
	}
	c.broken[is.Name] = is.Broken
}

// NewlyBroken says, once for each change, which nodes tell of their hosts or GPUs what
// cannot be read, and what is wrong with it.
func (c *Cache) NewlyBroken() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := maps.Clone(c.broken)
	clear(c.broken)
	return out
}
