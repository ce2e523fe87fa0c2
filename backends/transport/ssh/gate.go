package ssh

import (
	"context"
	"sync"
	"time"
)

// refusedTime is how long a server that refused a session is asked for fewer.
const refusedTime = time.Minute

// gate bounds the sessions at once on one connection. Those who wait are let in
// in the order they came.
type gate struct {
	mu      sync.Mutex
	most    int       // as configured
	limit   int       // as the server bears
	until   time.Time // when it is tried again whether it bears more
	inside  int
	waiting []chan struct{}
}

func newGate(most int) *gate { return &gate{most: most, limit: most} }

// enter blocks until there is room or ctx ends.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.limit < g.most && time.Now().After(g.until) {
		g.limit = g.most
	}
	if g.inside < g.limit && len(g.waiting) == 0 {
		g.inside++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	g.waiting = append(g.waiting, turn)
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, w := range g.waiting {
		if w == turn {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	// Let in at the same moment.
	g.inside--
	g.admit()
	return ctx.Err()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	g.admit()
}

func (g *gate) admit() {
	for g.inside < g.limit && len(g.waiting) > 0 {
		close(g.waiting[0])
		g.waiting = g.waiting[1:]
		g.inside++
	}
}

// full notes that the server refused a session: it bears those that are inside
// but one. It reports whether there is another to wait for.
func (g *gate) full() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside <= 1 {
		return false
	}
	g.limit, g.until = max(1, min(g.limit, g.inside-1)), time.Now().Add(refusedTime)
	return true
}

// reset forgets what an earlier server refused.
func (g *gate) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit = g.most
	g.admit()
}
