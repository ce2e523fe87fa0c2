package cache

// Changed delivers a value after something changed that a cycle might act on.
func (c *Cache) Changed() <-chan struct{} { return c.changed }

func (c *Cache) signal() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// ChangedLittle delivers a value after something changed that no placement
// depends on: a cycle would only tell it in statuses.
func (c *Cache) ChangedLittle() <-chan struct{} { return c.later }

func (c *Cache) signalLater() {
	select {
	case c.later <- struct{}{}:
	default:
	}
}

// little reports whether a pod holds and needs the same as before, an assumption
// that comes true included: no placement depends on what changed.
func (c *Cache) little(old, now *podEntry) bool {
	seat := c.seat(old)
	return !seat.Terminal() && !now.pod.Terminal() && old.needsEqual(now, &seat)
}
