package binder

import (
	"context"
	"sync"
	"time"
)

const (
	// patience is how long a status waits at the most for bindings to be sent.
	patience = 30 * time.Second
	// trickle is the time between two statuses that are written while bindings wait:
	// one costs the API server and its store as much as two bindings.
	trickle = 100 * time.Millisecond
)

// later lets bindings go before statuses: a status costs the API server more than
// a binding, and only the binding lets a pod run. Statuses of a burst are written
// a few at a time while bindings wait, all once none does, and in any case once
// the first of them has waited for long.
type later struct {
	mu    sync.Mutex
	uids  []string
	since map[string]time.Time
	kick  chan struct{}
}

func newLater() *later { return &later{since: map[string]time.Time{}, kick: make(chan struct{}, 1)} }

// add puts an object behind those that wait; one that waits keeps its place.
func (l *later) add(uid string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.since[uid]; !waits {
		l.uids = append(l.uids, uid)
		l.since[uid] = now
	}
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// take returns who may go now, in order, and whether others are left.
func (l *later) take(busy bool, now time.Time) (out []string, left bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.uids)
	if busy && n > 1 && now.Sub(l.since[l.uids[0]]) < patience {
		n = 1
	}
	out, l.uids = l.uids[:n:n], l.uids[n:]
	for _, uid := range out {
		delete(l.since, uid)
	}
	return out, len(l.uids) > 0
}

// run hands objects to write until ctx ends; busy reports whether bindings wait.
func (l *later) run(ctx context.Context, busy func() bool, now func() time.Time, write func(uid string)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
		}
		for left := true; left; {
			var out []string
			out, left = l.take(busy(), now())
			for _, uid := range out {
				write(uid)
			}
			if !left {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(trickle):
			}
		}
	}
}
