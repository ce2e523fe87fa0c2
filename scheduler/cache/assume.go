package cache

import (
	"slices"
	"strings"
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
	// Until is when the watch should have shown the binding; zero while it is under way.
	Until time.Time

	doubted bool
}

// Doubt is a pod whose binding was accepted and is not shown by the watch.
type Doubt struct{ UID, Namespace, Name, Node string }

// Assume counts a pod as bound from now on, until the watch shows it or Forget is called.
// A pod that is gone or bound is left alone, and Assume reports false.
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
		a.Until, a.doubted = until, false
		c.assumed[uid] = a
	}
}

// Trust has a doubted binding count on, and the watch is given until then to show it. Of
// a newer binding of the pod, which may be under way by now, the answer says nothing.
func (c *Cache) Trust(d Doubt, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.assumed[d.UID]; a.doubted && a.Node == d.Node {
		a.Until, a.doubted = until, false
		c.assumed[d.UID] = a
	}
}

// Dismiss gives a doubted binding up: it certainly is not there. A newer one stays.
func (c *Cache) Dismiss(d Doubt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a := c.assumed[d.UID]; a.doubted && a.Node == d.Node {
		c.forget(d.UID)
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

// Overdue returns, once for each and in order, the UIDs of pods whose bindings the watch
// did not show in time. It is a fault somewhere, which the caller makes visible: the watch
// may be far behind, so they count until it is known what became of them.
func (c *Cache) Overdue(now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for uid, a := range c.assumed {
		if !a.Until.IsZero() && now.After(a.Until) && !a.doubted {
			a.doubted = true
			c.assumed[uid] = a
			out = append(out, uid)
		}
	}
	slices.Sort(out)
	return out
}

// Doubted lists, by UID, those that Overdue returned and that nothing is known of since.
func (c *Cache) Doubted() []Doubt {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Doubt
	for uid, a := range c.assumed {
		if e := c.pods[uid]; a.doubted && e != nil {
			out = append(out, Doubt{uid, e.pod.Namespace, e.pod.Name, a.Node})
		}
	}
	slices.SortFunc(out, func(a, b Doubt) int { return strings.Compare(a.UID, b.UID) })
	return out
}

// Assumed counts the assumptions in force.
func (c *Cache) Assumed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.assumed)
}
