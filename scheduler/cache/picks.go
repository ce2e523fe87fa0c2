package cache

import (
	"reflect"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Pick says which pods the cycles that follow have to know of, nil for none.
func (c *Cache) Pick(picks *snapshot.Picks) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reflect.DeepEqual(c.picks, picks) {
		return
	}
	c.picks = picks
	c.touchGangs()
}

// picked reports whether a pod is one of those. A priority class that does not exist has
// nobody below it.
func (c *Cache) picked(e *podEntry) bool {
	if c.picks == nil {
		return false
	}
	for key, value := range c.picks.Labels {
		if of, ok := e.labels[key]; !ok || of != value {
			return false
		}
	}
	if c.picks.Below == "" {
		return true
	}
	class, ok := c.priorities[c.picks.Below]
	return ok && e.priority < class.value
}
