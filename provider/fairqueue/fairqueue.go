// Package fairqueue shares a number of places among tenants: whoever waits longest
// of a tenant comes next, the tenants take turns, and none has more places than its
// part. So one that floods waits for itself, and what it has under way, which others
// meet again at the batch system, stays little.
package fairqueue

import (
	"context"
	"slices"
	"sync"
)

// Queue is safe for concurrent use.
type Queue struct {
	mu      sync.Mutex
	free    int
	part    int
	held    map[string]int             // by tenant, none 0
	waiting map[string][]chan struct{} // by tenant, none empty
	turns   []string                   // tenants that wait, the next first
}

// New makes a queue for so many places, of which a tenant has no more than part;
// both are at least one.
func New(places, part int) *Queue {
	return &Queue{free: max(places, 1), part: max(part, 1), held: map[string]int{}, waiting: map[string][]chan struct{}{}}
}

// Enter waits for a place until ctx ends, and reports whether there is one. Then
// the caller calls Leave.
func (q *Queue) Enter(ctx context.Context, tenant string) bool {
	q.mu.Lock()
	if q.free > 0 && q.held[tenant] < q.part { // then nobody of the tenant waits
		q.take(tenant)
		q.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	if len(q.waiting[tenant]) == 0 {
		q.turns = append(q.turns, tenant)
	}
	q.waiting[tenant] = append(q.waiting[tenant], turn)
	q.mu.Unlock()
	select {
	case <-turn:
		return true
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-turn: // given meanwhile
		q.leave(tenant)
	default:
		q.give(tenant, turn)
	}
	return false
}

// Leave gives the place that the tenant had to the next.
func (q *Queue) Leave(tenant string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.leave(tenant)
}

// Waiting counts those that wait.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, w := range q.waiting {
		n += len(w)
	}
	return n
}

// take gives a free place to a tenant. The lock must be held, as for the others below.
func (q *Queue) take(tenant string) {
	q.free--
	q.held[tenant]++
}

// leave takes a place back and hands it on.
func (q *Queue) leave(tenant string) {
	q.free++
	if q.held[tenant]--; q.held[tenant] == 0 {
		delete(q.held, tenant)
	}
	q.next()
}

// SetPart changes how many places a tenant may have, at least one; who has more
// keeps them.
func (q *Queue) SetPart(part int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.part = max(part, 1)
	for q.free > 0 && q.next() {
	}
}

// next hands a free place to the first in turn that has less than its part, and
// reports whether there was one.
func (q *Queue) next() bool {
	for i, next := range q.turns {
		if q.held[next] >= q.part {
			continue
		}
		list := q.waiting[next]
		close(list[0])
		q.take(next)
		q.turns = slices.Delete(q.turns, i, i+1)
		if list = list[1:]; len(list) == 0 {
			delete(q.waiting, next)
			return true
		}
		q.waiting[next] = list
		q.turns = append(q.turns, next)
		return true
	}
	return false
}

// give takes one that no longer waits out of the queue.
func (q *Queue) give(tenant string, turn chan struct{}) {
	list := q.waiting[tenant]
	if i := slices.Index(list, turn); i >= 0 {
		list = slices.Delete(list, i, i+1)
	}
	if q.waiting[tenant] = list; len(list) > 0 {
		return
	}
	delete(q.waiting, tenant)
	if i := slices.Index(q.turns, tenant); i >= 0 {
		q.turns = slices.Delete(q.turns, i, i+1)
	}
}
