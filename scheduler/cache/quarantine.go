package cache

import "time"

// quarantine leaves a gang out of snapshots. What its pods hold is still counted
// on their nodes.
type quarantine struct {
	uid   string // of its PodGroup, "" for none
	until time.Time
}

// Quarantine leaves a gang out of every snapshot until a time, or until it is made
// again: a cycle that looks at it breaks.
func (c *Cache) Quarantine(gang string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil {
		e.out = quarantine{groupUID(e), until}
	}
}

// Quarantined counts the gangs that are left out.
func (c *Cache) Quarantined(now time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.gangs {
		if e.out.of(e, now) {
			n++
		}
	}
	return n
}

func (q quarantine) of(e *gangEntry, now time.Time) bool {
	return now.Before(q.until) && q.uid == groupUID(e)
}

func groupUID(e *gangEntry) string {
	if e.group == nil {
		return ""
	}
	return e.group.UID
}
