package cache

import (
	"fmt"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
	"github.com/isthmus-hpc/isthmus/scheduler/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// The chapters of what the cache has learnt.
const (
	chapterRuns  = "runs.json"
	chapterUsage = "usage.json"
)

// accountEvery is how often what queues hold is added up: often beside any half-life,
// seldom beside cycles.
const accountEvery = 10 * time.Second

// Chapters names what the cache learns.
func (c *Cache) Chapters() []string { return []string{chapterRuns, chapterUsage} }

// Remember adds what a chapter says, as Tell wrote it.
func (c *Cache) Remember(chapter, text string) error {
	switch chapter {
	case chapterRuns:
		book, err := estimate.Decode([]byte(text))
		if err != nil {
			return err //nolint:wrapcheck // the package has said what it did
		}
		c.rememberRuns(book)
	case chapterUsage:
		book, err := fairshare.Decode([]byte(text))
		if err != nil {
			return err //nolint:wrapcheck // the package has said what it did
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held.book == nil {
			c.held.book = book
		} else {
			c.held.book.Merge(book)
		}
		c.held.shown = nil
	default:
		return fmt.Errorf("nothing is known of a chapter %q", chapter)
	}
	return nil
}

// Tell writes a chapter that has news since a version of it, "" when there are none.
// It may be called at any time.
func (c *Cache) Tell(chapter string, since int64) (text string, now int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []byte
	switch {
	case chapter == chapterRuns && c.book != nil:
		if now = c.learnt; now != since {
			out, err = c.book.Encode()
		}
	case chapter == chapterUsage && c.held.book != nil:
		if now = c.held.version; now != since {
			out, err = c.held.book.Encode()
		}
	}
	return string(out), now, err //nolint:wrapcheck // the packages have said what they did
}

// accounts is what queues have held of late.
type accounts struct {
	book    *fairshare.Book // nil while nobody wants it
	version int64           // grows with what is new
	last    time.Time
	shown   *snapshot.Usage // as of now; nil when out of date
}

// Account adds what is held in a snapshot to what is remembered, to fade with a
// half-life; with none nothing is added. It is called after every cycle, and looks
// only now and then.
func (c *Cache) Account(s *snapshot.Snapshot, now time.Time, halfLife time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if halfLife <= 0 || !c.held.last.IsZero() && now.Sub(c.held.last) < accountEvery && !now.Before(c.held.last) {
		return
	}
	if c.held.book == nil {
		c.held.book = fairshare.New()
	}
	c.held.last = now
	c.held.book.SetHalfLife(halfLife)
	c.held.book.Record(s, now)
	c.held.version++
	c.held.shown = nil
}

// usage is what is remembered, for a snapshot.
func (c *Cache) usage() *snapshot.Usage {
	if c.held.shown == nil && c.held.book != nil {
		c.held.shown = c.held.book.Usage()
	}
	return c.held.shown
}
