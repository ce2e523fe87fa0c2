package provider

import (
	"context"
	"time"
)

const (
	// settleTime gathers events that come together (the members of a gang).
	settleTime = 100 * time.Millisecond
	// observeGap is the least time between two queries to the batch system.
	observeGap = time.Second
)

// Run passes until ctx ends: at once for events, each tick with a fresh
// observation while pods are live, each idle interval otherwise. after is
// called after each pass with whether it was fresh. Run returns when every
// step under way has ended; what it was about to do is found again by the next
// process.
func (b *Bridge) Run(ctx context.Context, tick, idle time.Duration, after func(ctx context.Context, fresh bool)) {
	defer b.Wait()
	b.busy.Go(func() { b.refreshLoop(ctx) })
	defer func() {
		b.mu.Lock()
		b.closed = true
		b.mu.Unlock()
	}()
	last := time.Time{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		fresh := false
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			fresh = true
		case <-b.Wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settleTime):
			}
			fresh = b.wantsFresh() && time.Since(last) >= observeGap
		}
		if fresh {
			last = time.Now()
		}
		b.Pass(ctx, fresh)
		after(ctx, fresh)
		next := idle
		v := b.View()
		switch {
		case b.wantsFresh() && (!fresh || v.Complete && v.Reachable):
			next = observeGap
		case b.live():
			next = tick // also when asking again would show no more than it just did
		}
		timer.Reset(max(0, next-time.Since(last)))
	}
}

// live reports whether any gang may still change at the batch system.
func (b *Bridge) live() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.memos) > 0
}

// wantsFresh reports whether a gang waits for a fresh observation.
func (b *Bridge) wantsFresh() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.memos {
		if m.wantsFresh {
			return true
		}
	}
	return false
}
