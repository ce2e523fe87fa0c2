package cache

import (
	"slices"
	"time"

	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

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

// Hold keeps a gang from being placed until a time, and says why.
func (c *Cache) Hold(gang, why string, until time.Time) { c.HoldAs(gang, "", why, until) }

// HoldAs is Hold for a reason that has a code of its own, by which it is shown.
func (c *Cache) HoldAs(gang, code, why string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil {
		e.hold, e.code, e.until, e.snap = why, code, until, nil
	}
}

// Conditions returns a PodGroup's conditions as the API server last told them.
func (c *Cache) Conditions(gang string) []volcanov1.PodGroupCondition {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil {
		return slices.Clone(e.raw)
	}
	return nil
}

// StatusWritten notes the status that a write left behind at a resource version,
// so that it is not written again before the watch shows it.
func (c *Cache) StatusWritten(gang, uid string, pg *volcanov1.PodGroup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.group == nil || e.group.UID != uid {
		return
	}
	if e.group.version != "" && !older(e.group.version, pg.ResourceVersion) {
		return // the watch was faster
	}
	status, before := groupStatus(pg.Status), e.group.Status.Phase
	e.written, e.writtenRV, e.raw, e.snap = &status, pg.ResourceVersion, pg.Status.Conditions, nil
	if status.Phase == snapshot.GroupInqueue && before != status.Phase {
		c.signal() // its pods may be placed from now on
	} else {
		c.signalLater()
	}
}

// Displayed is what a pod's PodScheduled condition says of why it waits.
func (c *Cache) Displayed(uid string) (reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return e.waitReason, e.waitMessage
	}
	return "", ""
}

// Pod returns the placement of a pod, assumptions included, and whether it exists.
func (c *Cache) Pod(uid string) (snapshot.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		return c.seat(e), true
	}
	return snapshot.Pod{}, false
}

// Status returns the PodGroup status that the next snapshot will show.
func (c *Cache) Status(gang string) (snapshot.GroupStatus, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	switch {
	case e == nil || e.group == nil:
		return snapshot.GroupStatus{}, false
	case e.written != nil:
		return *e.written, true
	}
	return e.group.Status, true
}
