package cache

import (
	"time"
)

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

// Await lets a pod that names no PodGroup wait so long for the controllers to give
// it one, from when it is first seen; then it is a gang of its own. Without it
// nobody is waited for. It must be called before the cache is given anything.
func (c *Cache) Await(d time.Duration) { c.await = d }

// awaitGroup holds a new plain pod back for a while.
func (c *Cache) awaitGroup(e *gangEntry, now time.Time) {
	if c.await <= 0 || e.group != nil || !e.seen.IsZero() {
		return
	}
	for _, p := range e.pods {
		if !p.stand.plain || p.pod.Node != "" {
			return
		}
		e.seen = now
		// A pod that is older has waited under an earlier scheduler.
		if left := c.await - now.Sub(time.Unix(0, p.stand.createdAt)); left > 0 && e.hold == "" {
			e.hold, e.until, e.snap = "waits for its PodGroup, which the controllers make", now.Add(min(left, c.await)), nil
		}
	}
}
