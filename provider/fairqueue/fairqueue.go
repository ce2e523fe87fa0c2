// Package fairqueue shares a number of places among tenants: whoever waits longest
// of a tenant comes next, and the tenants take turns. So one that floods waits for
// itself, and the others for one of its steps at the most.
package fairqueue

import (
	"context"
	"sync"
)

// Queue is safe for concurrent use.
type Queue struct {
	mu      sync.Mutex
	free    int
	waiting map[string][]chan struct{} // by tenant, none empty
	turns   []string                   // tenants that wait, the next first
}

// New makes a queue for so many places, at least one.
func New(places int) *Queue {
	return &Queue{free: max(places, 1), waiting: map[string][]chan struct{}{}}
}

// Enter waits for a place until ctx ends, and reports whether there is one. Then
// the caller calls Leave.
func (q *Queue) Enter(ctx context.Context, tenant string) bool {
	q.mu.Lock()
	if q.free > 0 { // nobody waits then
		q.free--
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
		q.next()
	default:
		q.give(tenant, turn)
	}
	return false
}

// Leave gives the place to the next.
func (q *Queue) Leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next()
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

// next hands a place on. The lock must be held.
func (q *Queue) next() {
	if len(q.turns) == 0 {
		q.free++
		return
	}
	tenant := q.turns[0]
	q.turns = q.turns[1:]
	list := q.waiting[tenant]
	close(list[0])
	if list = list[1:]; len(list) == 0 {
		delete(q.waiting, tenant)
		return
	}
	q.waiting[tenant] = list
	q.turns = append(q.turns, tenant)
}

// give takes one that no longer waits out of the queue. The lock must be held.
func (q *Queue) give(tenant string, turn chan struct{}) {
	list := q.waiting[tenant]
	for i, t := range list {
		if t == turn {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if q.waiting[tenant] = list; len(list) > 0 {
		return
	}
	delete(q.waiting, tenant)
	for i, t := range q.turns {
		if t == tenant {
			q.turns = append(q.turns[:i:i], q.turns[i+1:]...)
			return
		}
	}
}
