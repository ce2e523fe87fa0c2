package cache

import (
	"time"
)

// eviction is a pod that was told to go, or that is left alone after it would not.
type eviction struct {
	spared string    // why it is left alone; "" while it is to go
	until  time.Time // of either
}

// evictWithin is how long the watch may take to show that a pod goes away.
const evictWithin = 2 * time.Minute

// Evict counts a pod as going away from now on, until the watch shows it, Spare
// is called or the watch takes too long.
func (c *Cache) Evict(uid string, now time.Time) {
	c.setEviction(uid, eviction{until: now.Add(evictWithin)})
}

// Spare takes Evict back and leaves the pod alone until then; why says so.
func (c *Cache) Spare(uid, why string, until time.Time) {
	c.setEviction(uid, eviction{spared: why, until: until})
}

// Stay takes Evict back: nobody told the pod to go after all.
func (c *Cache) Stay(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		delete(c.evictions, uid)
		c.touch(e)
		c.signal()
	}
}

// Goes reports whether a pod counts as going away, or has gone or ended.
func (c *Cache) Goes(uid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.pods[uid]
	if e == nil {
		return true
	}
	p := c.seat(e)
	return p.Terminating || p.Terminal()
}

func (c *Cache) setEviction(uid string, ev eviction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.pods[uid]; e != nil {
		c.evictions[uid] = ev
		c.touch(e)
		c.signal()
	}
}

// expireEvictions ends what is over; the watch shows what became of the pods.
func (c *Cache) expireEvictions(now time.Time) {
	for uid, ev := range c.evictions {
		if now.After(ev.until) {
			delete(c.evictions, uid)
			if e := c.pods[uid]; e != nil {
				c.touch(e)
			}
		}
	}
}
