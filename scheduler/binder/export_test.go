package binder

import (
	"context"
	"time"

	"k8s.io/client-go/util/workqueue"
)

// Work is what a worker has done in one step.
type Work struct {
	// Pod is the UID of the pod that was bound, "" for other work.
	Pod     string
	Settled bool
	// Again lets it wait once more, which a worker would do after Pause, given how
	// often it was tried before.
	Again func()
	Key   any
	Pause func(tries int) time.Duration
}

// Kinds are the kinds of work.
var Kinds = []string{"prepare", "claim", "evict", "doubt", "bind", "write"}

// Step does one thing that waits in place of a worker, and reports whether any was
// there. The binder must not have been started.
func (b *Binder) Step(ctx context.Context, kind string) (Work, bool) {
	switch kind {
	case "prepare":
		return step(ctx, b.prepares, b.step, lastLook)
	case "claim":
		return step(ctx, b.claims, b.claim, lastRetry)
	case "evict":
		return step(ctx, b.evicts, b.evict, lastRetry)
	case "doubt":
		return step(ctx, b.doubts, b.doubt, lastRetry)
	case "bind":
		w, ok := step(ctx, b.binds, b.bind, lastBind)
		if t, is := w.Key.(*bindTask); is {
			w.Pod = t.bind.UID
		}
		return w, ok
	}
	uids, _ := b.later.take(b.binds.Len() > 0, b.Now())
	for _, uid := range uids {
		b.writes.Add(uid)
	}
	return step(ctx, b.writes, b.write, lastRetry)
}

func step[T comparable](ctx context.Context, q workqueue.TypedRateLimitingInterface[T], f func(context.Context, T) bool, last time.Duration) (Work, bool) {
	if q.Len() == 0 {
		return Work{}, false
	}
	item, _ := q.Get()
	defer q.Done(item)
	return Work{
		Settled: f(ctx, item), Again: func() { q.Add(item) }, Key: item,
		Pause: func(tries int) time.Duration { return min(firstRetry<<min(tries, 20), last) },
	}, true
}

// Close ends what a binder that was never started holds.
func (b *Binder) Close() {
	b.prepares.ShutDown()
	b.binds.ShutDown()
	b.writes.ShutDown()
	b.claims.ShutDown()
	b.evicts.ShutDown()
	b.doubts.ShutDown()
}
