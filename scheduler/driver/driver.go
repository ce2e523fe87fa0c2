// Package driver turns the crank: it waits for changes, takes a snapshot, has
// the cycle decide and hands the plan to the binder. Changes that arrive close
// together are taken together. A cycle that panics is logged and counted, and
// the program goes on.
package driver

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
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
	// Looked, when set, is told the outcome of each cycle. It must not block.
	Looked func(*snapshot.Snapshot, plan.Plan)

	blind  string // what can no longer be followed
	early  bool   // something is to be told soon if it stays so
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
	Interval time.Duration // least time from the start of one cycle to the next; it is twice as long as a cycle took, if that is more
	Spread   time.Duration // Interval grows up to this where cycles would take more than a fiftieth of the time
	Lazy     time.Duration // waited for more after a change that only statuses depend on
	Resync   time.Duration // a cycle runs at least this often, which refreshes messages and ends holds
	Audit    time.Duration // the ledger is recomputed and compared this often
}

// DefaultTiming suits clusters of any size.
func DefaultTiming() Timing {
	return Timing{Coalesce: 50 * time.Millisecond, Interval: 100 * time.Millisecond, Spread: 300 * time.Millisecond, Lazy: 500 * time.Millisecond, Resync: 10 * time.Second, Audit: time.Minute}
}

// interval is the least time from the start of one cycle, which took so long, to the
// next. In a large cluster a cycle costs much whatever little has changed: where change
// follows change, as while many pods are made, it is done for more of them at a time.
func (t Timing) interval(took time.Duration) time.Duration {
	const share = 50
	return max(t.Interval, min(share*took, t.Spread), 2*took)
}

// GCPercent is how much garbage, in percent of what lives, the program lets gather
// where memory allows: most of what lives is the cluster's state, which stays.
const GCPercent = 300

// afterPanic is the pause after a failed cycle, which would fail again at once.
const afterPanic = time.Second

// Run runs cycles until ctx ends. The cache must be synced.
func (d *Driver) Run(ctx context.Context) {
	var last, audited time.Time
	var took time.Duration
	d.Cache.Decides(d.Now())
	for {
		resync := d.Timing.Resync
		if d.early {
			resync = min(resync, framework.Filling)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.Cache.Changed():
			if !d.gather(ctx, last, took) {
				return
			}
		case <-d.Cache.ChangedLittle():
			select {
			case <-ctx.Done():
				return
			case <-d.Cache.Changed():
				if !d.gather(ctx, last, took) {
					return
				}
			case <-time.After(max(d.Timing.Lazy, d.Timing.Coalesce)):
			}
		case <-d.wake():
		case <-time.After(resync):
		}
		last = d.Now()
		d.beat.Store(last.UnixNano())
		if last.Sub(audited) >= d.Timing.Audit {
			audited = last
			d.audit(ctx)
			last = d.Now() // the cycle begins here
		}
		if d.isBlind(ctx) {
			took = 0
			continue
		}
		err := d.Cycle(ctx)
		took = d.Now().Sub(last)
		if err != nil {
			d.Metrics.panics.Inc()
			logr.FromContextOrDiscard(ctx).Error(err, "scheduling cycle failed")
			if !pause(ctx, afterPanic) {
				return
			}
		}
	}
}

// isBlind reports whether a right was taken away without which nothing is to be
// decided. It is asked for again by those that follow the kinds.
func (d *Driver) isBlind(ctx context.Context) bool {
	now := d.Cache.Blind()
	if now != d.blind {
		log := logr.FromContextOrDiscard(ctx)
		if now != "" {
			log.Error(nil, "nothing is decided: what the cluster holds may no longer be read", "missing", "list, watch", "resources", now)
		} else {
			log.Info("the cluster may be read again", "resources", d.blind)
		}
		d.blind = now
	}
	return now != ""
}

// gather waits for more changes after one that placements depend on.
func (d *Driver) gather(ctx context.Context, last time.Time, took time.Duration) bool {
	interval := d.Timing.interval(took)
	wait := max(d.Timing.Coalesce, interval-d.Now().Sub(last))
	return pause(ctx, min(wait, d.Timing.Coalesce+interval)) // whatever the clock does
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
	for _, uid := range d.Cache.Overdue(start) {
		d.Metrics.expired.Inc()
		log.Info("a binding was accepted and is not shown by the watch; the API server is asked what became of it", "podUID", uid)
	}
	for node, why := range d.Cache.NewlyBroken() {
		log.Info("what a node tells of itself cannot be read: no pod that needs it goes there", "node", node, "reason", why)
	}
	pipeline := d.pipeline()
	pipeline.Watch = d.Metrics.watch(d.Now)
	d.Cache.WantImages(pipeline.WantsImages())
	d.Cache.Pick(pipeline.Picks())
	s, p, err := d.decide(ctx, pipeline, start)
	if err != nil {
		return err
	}
	took := d.Now().Sub(start)
	d.early = slices.ContainsFunc(p.Unschedulable, func(u plan.Unschedulable) bool { return u.Early })
	d.Binder.Carry(p)
	d.Cache.NoteRounds(p.Rounds, start)
	if d.Looked != nil {
		d.Looked(s, p)
	}
	d.Cache.Account(s, start, pipeline.HalfLife())
	d.Metrics.cycle(s, p, pipeline.Entitlement(), start, took)
	if n := d.Cache.Quarantined(start); n > 0 {
		d.Metrics.waiting.WithLabelValues(string(plan.Quarantined)).Set(float64(n))
	}
	logDecisions(log, p)
	log.V(1).Info("cycle done", "took", took.String(), "placed", len(p.Placements), "waiting", len(p.Unschedulable), "statuses", len(p.Statuses))
	return nil
}

const (
	// quarantineFor is how long a gang is left out that a cycle broke at.
	quarantineFor = 5 * time.Minute
	// mostBroken bounds the gangs that one cycle leaves out one after the other;
	// more than that is not the gangs' fault.
	mostBroken = 8
)

// decide takes a snapshot and has the cycle decide. A gang at which the cycle
// panics is left out, and the cycle is run again at once without it.
func (d *Driver) decide(ctx context.Context, pipeline framework.Pipeline, now time.Time) (*snapshot.Snapshot, plan.Plan, error) {
	var told []plan.Status
	for {
		s := d.Cache.Snapshot(now)
		p, failure := try(pipeline, s, now)
		if failure == nil {
			p.Statuses = append(p.Statuses, told...)
			return s, p, nil
		}
		g := s.Gang(failure.Gang)
		if g == nil || len(told) >= mostBroken {
			return nil, plan.Plan{}, failure
		}
		d.Metrics.panics.Inc()
		until := now.Add(quarantineFor)
		logr.FromContextOrDiscard(ctx).Error(failure, "gang is left out: the cycle broke at it", "podGroup", g.Key, "until", until)
		d.Cache.Quarantine(g.Key, until)
		status, ok := scheduler.Quarantine(g, fmt.Sprintf("the scheduler failed when it looked at this gang and leaves it out until %s; please report it: %v", until.UTC().Format(time.RFC3339), failure.Cause))
		if ok {
			told = append(told, status)
		}
	}
}

func try(pipeline framework.Pipeline, s *snapshot.Snapshot, now time.Time) (p plan.Plan, failure *scheduler.Failure) {
	defer func() {
		if r := recover(); r != nil {
			var ok bool
			if failure, ok = r.(*scheduler.Failure); !ok {
				panic(r)
			}
		}
	}()
	return scheduler.Cycle(pipeline, s, now), nil
}

// audit compares what the cache counts with what the pods say.
func (d *Driver) audit(ctx context.Context) {
	found := append(d.snapshot().Audit(), d.Cache.Audit()...)
	d.Metrics.mismatches.Set(float64(len(found)))
	d.Metrics.audits.Inc() // after the differences: whoever sees it counted sees what it found
	for _, m := range found {
		logr.FromContextOrDiscard(ctx).Info("ledger differs from pods", "difference", m)
	}
}

func (d *Driver) snapshot() *snapshot.Snapshot { return d.Cache.Snapshot(d.Now()) }
