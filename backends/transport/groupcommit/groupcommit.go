// Package groupcommit turns requests that come at about the same time into few
// commands. A request that finds nothing under way is carried out at once and
// alone; those that come meanwhile, or shortly after, wait and go together with
// the next command. So nothing is slower when there is little to do, and a thousand requests cost
// some dozens of commands.
package groupcommit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// Config makes a Committer. Run and Most are required.
type Config[R any] struct {
	// Run carries out a batch of requests with the same lane, and gives one error
	// for each, in their order. Its context ends when nobody waits for the batch
	// any more.
	Run func(ctx context.Context, lane string, batch []R) []error
	// Most requests make a batch.
	Most int
	// Cost and MostCost bound a batch as well, unless Cost is nil; a single
	// request may cost more.
	Cost     func(R) int64
	MostCost int64
	// Parallel batches of one lane may be under way at once; 0 is 1.
	Parallel int
	// Linger is how long a lane that has just been busy waits for more requests
	// before its next batch: when many come, fewer commands carry more of them.
	Linger time.Duration
}

// Committer is safe for concurrent use. Make it with New.
type Committer[R any] struct {
	config Config[R]

	mu    sync.Mutex
	lanes map[string]*lane[R]
}

type lane[R any] struct {
	waiting []*item[R]
	running int
	full    chan struct{} // told when a whole batch waits; holds one
}

// item is one request.
type item[R any] struct {
	ctx     context.Context //nolint:containedctx // it lives as long as one call to Do
	request R
	done    chan error
	batch   *batch // nil while it waits
}

// batch is what its requests share.
type batch struct {
	waiters int
	cancel  context.CancelFunc
}

// New gives a Committer.
func New[R any](config Config[R]) *Committer[R] {
	config.Parallel = max(config.Parallel, 1)
	config.Most = max(config.Most, 1)
	return &Committer[R]{config: config, lanes: map[string]*lane[R]{}}
}

// Do carries out one request, together with others of its lane, and blocks until
// that is done or ctx ended. An error that wraps transport.ErrNotStarted says
// that ctx ended before anything was done; another error of ctx leaves the
// outcome open.
func (c *Committer[R]) Do(ctx context.Context, name string, request R) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrNotStarted, err)
	}
	it := &item[R]{ctx: ctx, request: request, done: make(chan error, 1)}
	c.mu.Lock()
	l := c.lanes[name]
	if l == nil {
		l = &lane[R]{full: make(chan struct{}, 1)}
		c.lanes[name] = l
	}
	l.waiting = append(l.waiting, it)
	if l.running < c.config.Parallel {
		l.running++
		go c.work(name, l)
	} else if len(l.waiting) >= c.config.Most {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
	c.mu.Unlock()
	select {
	case err := <-it.done:
		return err
	case <-ctx.Done():
	}
	return c.leave(l, it)
}

// leave gives up on a request.
func (c *Committer[R]) leave(l *lane[R], it *item[R]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case err := <-it.done: // it was done in the same moment
		return err
	default:
	}
	if it.batch != nil {
		if it.batch.waiters--; it.batch.waiters == 0 {
			it.batch.cancel()
		}
		return it.ctx.Err()
	}
	for i, w := range l.waiting {
		if w == it {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			break
		}
	}
	return fmt.Errorf("%w: %w", transport.ErrNotStarted, it.ctx.Err())
}

// work runs batch after batch until nothing waits.
func (c *Committer[R]) work(name string, l *lane[R]) {
	for {
		c.mu.Lock()
		items := c.next(l)
		if len(items) == 0 {
			if l.running--; l.running == 0 {
				delete(c.lanes, name)
			}
			c.mu.Unlock()
			return
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(items[0].ctx))
		b := &batch{waiters: len(items), cancel: cancel}
		requests := make([]R, len(items))
		for i, it := range items {
			it.batch, requests[i] = b, it.request
		}
		c.mu.Unlock()
		errs := c.config.Run(ctx, name, requests)
		cancel()
		c.mu.Lock()
		for i, it := range items {
			if i < len(errs) {
				it.done <- errs[i]
			} else {
				it.done <- fmt.Errorf("request %d of %d has no answer", i+1, len(items))
			}
		}
		linger := c.config.Linger > 0 && len(l.waiting) < c.config.Most
		c.mu.Unlock()
		if linger {
			select {
			case <-time.After(c.config.Linger):
			case <-l.full:
			}
		}
	}
}

// next takes the requests of the next batch.
func (c *Committer[R]) next(l *lane[R]) []*item[R] {
	n, cost := 0, int64(0)
	for n < len(l.waiting) && n < c.config.Most {
		if c.config.Cost != nil {
			cost += c.config.Cost(l.waiting[n].request)
			if n > 0 && cost > c.config.MostCost {
				break
			}
		}
		n++
	}
	items := l.waiting[:n:n]
	l.waiting = l.waiting[n:]
	return items
}
