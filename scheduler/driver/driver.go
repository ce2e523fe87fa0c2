// Package driver turns the crank: it waits for changes, takes a snapshot, has
// the cycle decide and hands the plan to the binder. Changes that arrive close
// together are taken together. A cycle that panics is logged and counted, and
// the program goes on.
package driver

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Carrier carries plans out; Carry must not block on I/O.
type Carrier interface{ Carry(plan.Plan) }

// Driver runs cycles one at a time.
type Driver struct {
	Cache    *cache.Cache
	Pipeline framework.Pipeline // until Use gives another
	Binder   Carrier
	Metrics  *Metrics
	Now      func() time.Time
	Timing   Timing

	beat   atomic.Int64
	other  atomic.Pointer[framework.Pipeline]
	wanted chan struct{}
	once   sync.Once
}

// Use has all cycles from the next on run another pipeline. It may be called at
// any time, from any goroutine.
func (d *Driver) Use(p framework.Pipeline) {
	d.other.Store(&p)
	select {
	case d.wake() <- struct{}{}:
	default:
	}
}

func (d *Driver) wake() chan struct{} {
	d.once.Do(func() { d.wanted = make(chan struct{}, 1) })
	return d.wanted
}

func (d *Driver) pipeline() framework.Pipeline {
	if p := d.other.Load(); p != nil {
		return *p
	}
	return d.Pipeline
}

// Alive reports whether the loop has turned lately, or has not begun.
func (d *Driver) Alive() bool {
	beat := d.beat.Load()
	return beat == 0 || d.Now().Sub(time.Unix(0, beat)) < 2*d.Timing.Resync+time.Minute
}

// Timing is when cycles run.
type Timing struct {
	Coalesce time.Duration // waited after the first change for more of them
	Interval time.Duration // least time from the start of one cycle to the next
	Resync   time.Duration // a cycle runs at least this often, which refreshes messages and ends holds
	Audit    time.Duration // the ledger is recomputed and compared this often
}

// DefaultTiming suits clusters of any size.
func DefaultTiming() Timing {
	return Timing{Coalesce: 50 * time.Millisecond, Interval: 100 * time.Millisecond, Resync: 10 * time.Second, Audit: time.Minute}
}

// afterPanic is the pause after a failed cycle, which would fail again at once.
const afterPanic = time.Second

// Run runs cycles until ctx ends. The cache must be synced.
func (d *Driver) Run(ctx context.Context) {
	var last, audited time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.Cache.Changed():
			wait := max(d.Timing.Coalesce, d.Timing.Interval-d.Now().Sub(last))
			if !pause(ctx, min(wait, d.Timing.Coalesce+d.Timing.Interval)) {
				return
			}
		case <-d.wake():
		case <-time.After(d.Timing.Resync):
		}
		last = d.Now()
		d.beat.Store(last.UnixNano())
		if last.Sub(audited) >= d.Timing.Audit {
			audited = last
			d.audit(ctx)
		}
		if err := d.Cycle(ctx); err != nil {
			d.Metrics.panics.Inc()
			logr.FromContextOrDiscard(ctx).Error(err, "scheduling cycle failed")
			if !pause(ctx, afterPanic) {
				return
			}
		}
	}
}

func pause(ctx context.Context, t time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(t):
		return true
	}
}

// Cycle runs one cycle. A panic in it is returned as an error with the stack.
func (d *Driver) Cycle(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic in cycle: %v\n%s", r, debug.Stack())
		}
	}()
	log := logr.FromContextOrDiscard(ctx)
	start := d.Now()
	for _, uid := range d.Cache.Expire(start) {
		d.Metrics.expired.Inc()
		log.Info("a binding was accepted but never shown by the watch; no longer counting it", "podUID", uid)
	}
	s := d.Cache.Snapshot(start)
	pipeline := d.pipeline()
	pipeline.Watch = d.Metrics.watch(d.Now)
	p := scheduler.Cycle(pipeline, s, start)
	took := d.Now().Sub(start)
	d.Binder.Carry(p)
	d.Metrics.cycle(s, p, pipeline.Entitlement(), start, took)
	for _, pl := range p.Placements {
		log.Info("gang placed", "podGroup", pl.Gang, "node", pl.Domain, "pods", len(pl.Binds), "size", pl.Size, "attempt", pl.Attempt)
	}
	log.V(1).Info("cycle done", "took", took.String(), "placed", len(p.Placements), "waiting", len(p.Unschedulable), "statuses", len(p.Statuses))
	return nil
}

// audit compares what the cache counts with what the pods say.
func (d *Driver) audit(ctx context.Context) {
	found := d.snapshot().Audit()
	d.Metrics.mismatches.Set(float64(len(found)))
	for _, m := range found {
		logr.FromContextOrDiscard(ctx).Info("ledger differs from pods", "difference", m)
	}
}

func (d *Driver) snapshot() *snapshot.Snapshot { return d.Cache.Snapshot(d.Now()) }
