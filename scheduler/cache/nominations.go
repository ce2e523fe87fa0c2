package cache

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Wanted reports whether room is still to be made for a gang as was decided at a
// time: it exists, nothing else was decided since, the time is not over, and a member
// that the room is for has no place yet. What gives room up is wanted until something
// else is decided.
func (c *Cache) Wanted(gang string, since int64, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.nominated == nil || e.nominated.Since != since {
		return false
	}
	if n := e.nominated; n.Until <= max(n.Since, now.UnixNano()) {
		return n.Until <= n.Since
	}
	return slices.ContainsFunc(e.nominated.Pods, func(n snapshot.NominatedPod) bool {
		if n.Name != "" {
			return true // who is moved has a place
		}
		p := c.pods[n.UID]
		if p == nil {
			return false
		}
		seat := c.seat(p)
		return seat.Waits()
	})
}

// Nominate keeps room for a gang, if it is still the one of that UID.
func (c *Cache) Nominate(gang, uid string, n snapshot.Nomination) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gangs[gang]
	if e == nil || e.uid() != uid {
		return
	}
	e.nominated, e.snap = &n, nil
}

// Unnominate gives the room of a gang up that was nominated at a time.
func (c *Cache) Unnominate(gang string, since int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.gangs[gang]; e != nil && e.nominated != nil && e.nominated.Since == since {
		e.nominated, e.snap = over(e.nominated), nil
		c.signal()
	}
}

// over is a nomination that is newer than the annotation of another and keeps no room,
// but has what became of the gang.
func over(n *snapshot.Nomination) *snapshot.Nomination {
	out := &snapshot.Nomination{Since: n.Since + 1, Moved: n.Moved}
	if slices.ContainsFunc(n.Pods, func(p snapshot.NominatedPod) bool { return p.Name != "" }) {
		out.Pods, out.Leaves = n.Pods, n.Leaves
	}
	return out
}

// nomination is what was decided, or else the annotation, and whether it is that: anybody
// may have written it.
func (e *gangEntry) nomination(written *snapshot.Nomination) (n *snapshot.Nomination, inherited bool) {
	if e.nominated != nil {
		return e.nominated, false
	}
	return written, written != nil
}

// noteUsed has room not be kept again for what a gang loses when it had its minimum, maybe
// with other members than the room was made for: what is free is planned without that then.
func (e *gangEntry) noteUsed(g *snapshot.Gang) {
	n := g.Nominated
	if n == nil || slices.ContainsFunc(n.Pods, func(p snapshot.NominatedPod) bool { return p.Name != "" }) {
		return
	}
	if e.used != n.Since {
		if !g.IsBound() {
			return
		}
		e.used = n.Since
	}
	used := *n
	used.Used = true
	g.Nominated = &used
}

// handover is how long after a program has begun to decide what the one before it wrote
// may still come in.
const handover = time.Minute

// Decides says that from now on nobody but this program keeps room for gangs. What
// PodGroups tell of rooms is believed if it is there within a moment, of the program that
// decided before, and never again. Who only looks on believes all.
func (c *Cache) Decides(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inherits = now.Add(handover)
}

// believed is what counts of the nomination that a PodGroup has come with: as Decides says.
func (c *Cache) believed(e *gangEntry, spec *groupSpec) *snapshot.Nomination {
	switch {
	case !c.sole || spec.Nominated == nil:
		return spec.Nominated
	case e.group != nil && e.group.UID == spec.UID:
		return e.group.Nominated
	}
	return nil
}

// maxNomination bounds what is read from an annotation.
const maxNomination = 256 << 10

// nominationOf reads the annotation; one that does not parse is none.
func nominationOf(annotations map[string]string) *snapshot.Nomination {
	text := annotations[wellknown.Nomination]
	if text == "" || len(text) > maxNomination {
		return nil
	}
	var n snapshot.Nomination
	if json.Unmarshal([]byte(text), &n) != nil {
		return nil
	}
	return &n
}
