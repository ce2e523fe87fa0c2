package cache

import (
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Assumption is a binding that was sent and that the watch has not shown yet.
type Assumption struct {
	Node    string
	Attempt string
	Size    int64
	Rank    int64
	Devices []string
	Cells   []snapshot.CellShare
	// Claims are the volumes and devices that are seen to before the pod is bound.
	Claims *claims.Got
	// Until is when the assumption is given up; zero while the binding is under way.
	Until time.Time
}

// Assume counts a pod as bound from now on, until the watch shows it, Forget is
// called, or the assumption expires. A pod that is gone or bound is left alone,
// and Assume reports false.
func (c *Cache) Assume(uid string, a Assumption) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pods[uid]
	if e == nil || e.pod.Node != "" {
		return false
	}
	c.unlink(e)
	c.claimed.idle.freed(c.assumed[uid].Claims) // of another placement
	c.assumed[uid] = a
	if a.Claims != nil {
		c.claimed.world = nil
	}
	c.link(e)
	return true
}

// Confirm says that the API server accepted the binding of a pod; the watch is
// given until then to show it. Confirming twice is harmless.
func (c *Cache) Confirm(uid string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.assumed[uid]; ok {
		a.Until = until
		c.assumed[uid] = a
	}
}

// Forget gives an assumption up: the binding certainly did not happen.
func (c *Cache) Forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(uid)
}

func (c *Cache) forget(uid string) {
	if _, ok := c.assumed[uid]; !ok {
		return
	}
	if e := c.pods[uid]; e != nil {
		c.unlink(e)
		c.unassume(uid)
		c.link(e)
	}
	c.unassume(uid)
	c.signal()
}

// unassume drops an assumption and what it promised.
func (c *Cache) unassume(uid string) {
	if got := c.assumed[uid].Claims; got != nil {
		c.claimed.world = nil
		c.claimed.idle.freed(got)
	}
	delete(c.assumed, uid)
}

// Expire gives up confirmed assumptions that the watch did not show in time and
// returns their pods' UIDs in order. It is a fault somewhere: the caller makes it visible.
func (c *Cache) Expire(now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for uid, a := range c.assumed {
		if !a.Until.IsZero() && now.After(a.Until) {
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	for _, uid := range out {
		c.forget(uid)
	}
	return out
}

// Assumed counts the assumptions in force.
func (c *Cache) Assumed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.assumed)
}
