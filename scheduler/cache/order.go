package cache

import (
	"slices"
	"strings"
)

// order lists gangs by key. Most stay from one snapshot to the next, so those that came are
// merged in: to sort all of them each time would cost more than most cycles.
type order struct {
	gangs, came []*gangEntry
	gone        bool // some of gangs have
}

// add takes in a gang that is new.
func (o *order) add(e *gangEntry) { o.came = append(o.came, e) }

// remove marks a gang that is gone, for good: one of the same key is another entry.
func (o *order) remove(e *gangEntry) { e.gone, o.gone = true, true }

// list is good until the next call.
func (o *order) list() []*gangEntry {
	if o.gone {
		left := func(e *gangEntry) bool { return e.gone }
		o.gangs, o.came, o.gone = slices.DeleteFunc(o.gangs, left), slices.DeleteFunc(o.came, left), false
	}
	if len(o.came) == 0 {
		return o.gangs
	}
	slices.SortFunc(o.came, func(a, b *gangEntry) int { return strings.Compare(a.key, b.key) })
	i := len(o.gangs) - 1
	o.gangs = append(o.gangs, o.came...)
	// From the end on, so that each is moved once.
	for k, to := len(o.came)-1, len(o.gangs)-1; k >= 0; to-- {
		if i >= 0 && o.gangs[i].key > o.came[k].key {
			o.gangs[to] = o.gangs[i]
			i--
		} else {
			o.gangs[to] = o.came[k]
			k--
		}
	}
	clear(o.came)
	o.came = o.came[:0]
	return o.gangs
}
