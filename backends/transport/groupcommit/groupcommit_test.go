package groupcommit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// ledger is a Run that notes its batches and holds each until it is let go.
type ledger struct {
	mu      sync.Mutex
	batches [][]int
	gate    chan struct{}
	ended   int // batches whose context ended
}

func (l *ledger) run(ctx context.Context, _ string, batch []int) []error {
	l.mu.Lock()
	l.batches = append(l.batches, slices.Clone(batch))
	l.mu.Unlock()
	select {
	case <-l.gate:
	case <-ctx.Done():
		l.mu.Lock()
		l.ended++
		l.mu.Unlock()
	}
	errs := make([]error, len(batch))
	for i, n := range batch {
		if n < 0 {
			errs[i] = fmt.Errorf("request %d", n)
		}
	}
	return errs
}

func TestRequestsGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{gate: make(chan struct{})}
		c := New(Config[int]{Run: l.run, Most: 4})
		got := make([]error, 10)
		var group sync.WaitGroup
		for i := range got {
			group.Go(func() {
				n := i
				if i == 6 {
					n = -6
				}
				got[i] = c.Do(t.Context(), "alice", n)
			})
			synctest.Wait() // in this order
		}
		close(l.gate)
		group.Wait()
		want := [][]int{{0}, {1, 2, 3, 4}, {5, -6, 7, 8}, {9}}
		if !slices.EqualFunc(l.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", l.batches, want)
		}
		for i, err := range got {
			if (err != nil) != (i == 6) {
				t.Errorf("request %d: error %v", i, err)
			}
		}
		synctest.Wait() // the lane's goroutine has gone
		if len(c.lanes) != 0 {
			t.Errorf("%d lanes stay", len(c.lanes))
		}
	})
}

func TestLanesAndParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{gate: make(chan struct{})}
		c := New(Config[int]{Run: l.run, Most: 9, Parallel: 2, Cost: func(n int) int64 { return int64(n) }, MostCost: 10})
		var group sync.WaitGroup
		for i, lane := range []string{"alice", "bob", "alice", "alice", "alice", "alice"} {
			group.Go(func() { _ = c.Do(t.Context(), lane, i+1) })
			synctest.Wait()
		}
		if len(l.batches) != 3 { // two of alice, one of bob
			t.Errorf("batches under way %v, want 3", l.batches)
		}
		close(l.gate)
		group.Wait()
		synctest.Wait()
		if want := []int{4, 5}; !slices.Equal(l.batches[3], want) || len(l.batches) != 5 {
			t.Errorf("batches %v, want %v fourth: 6 more would cost too much", l.batches, want)
		}
	})
}

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{gate: make(chan struct{})}
		close(l.gate) // a batch takes no time
		c := New(Config[int]{Run: l.run, Most: 3, Linger: time.Second})
		var group sync.WaitGroup
		ask := func(n int) {
			group.Go(func() { _ = c.Do(t.Context(), "a", n) })
			synctest.Wait()
		}
		start := time.Now()
		for n := range 5 { // the first alone and at once, three as soon as they are a batch, one after a second
			ask(n)
		}
		group.Wait()
		if want := [][]int{{0}, {1, 2, 3}, {4}}; !slices.EqualFunc(l.batches, want, slices.Equal) {
			t.Errorf("batches %v, want %v", l.batches, want)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v, want one linger", took)
		}
		time.Sleep(2 * time.Second) // the lane is idle again
		start = time.Now()
		ask(9)
		group.Wait()
		if took := time.Since(start); took != 0 {
			t.Errorf("a request to an idle lane took %v", took)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait() // the lane's goroutine has gone
		if len(c.lanes) != 0 {
			t.Errorf("%d lanes stay", len(c.lanes))
		}
	})
}

func TestLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{gate: make(chan struct{})}
		c := New(Config[int]{Run: l.run, Most: 4})
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		var errFirst, errSecond error
		var group sync.WaitGroup
		group.Go(func() { errFirst = c.Do(first, "a", 1) })
		synctest.Wait()
		group.Go(func() { errSecond = c.Do(second, "a", 2) })
		synctest.Wait()
		leaveSecond()
		synctest.Wait()
		leaveFirst()
		group.Wait()
		synctest.Wait()
		if !errors.Is(errSecond, transport.ErrNotStarted) || !errors.Is(errSecond, context.Canceled) {
			t.Errorf("a request that waited: %v, want not started", errSecond)
		}
		if errors.Is(errFirst, transport.ErrNotStarted) || !errors.Is(errFirst, context.Canceled) {
			t.Errorf("a request under way: %v, want an open outcome", errFirst)
		}
		if l.ended != 1 || len(l.batches) != 1 {
			t.Errorf("batches %v, %d ended by context, want one that nobody waited for any more", l.batches, l.ended)
		}
		if err := c.Do(first, "a", 3); !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("an ended context: %v", err)
		}
	})
}
