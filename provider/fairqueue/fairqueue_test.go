package fairqueue_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/isthmus-hpc/isthmus/provider/fairqueue"
)

// One tenant waits a thousand times before another comes: the other's turns are
// every second, whatever waits.
func TestTenantsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := fairqueue.New(1)
		q.Enter(t.Context(), "flood")
		var order []string
		enter := func(tenant string, n int) {
			for i := range n {
				go func() {
					if q.Enter(t.Context(), tenant) {
						order = append(order, fmt.Sprint(tenant, i))
						q.Leave()
					}
				}()
				synctest.Wait() // in this order
			}
		}
		enter("flood", 1000)
		enter("quiet", 3)
		enter("other", 1)
		if n := q.Waiting(); n != 1004 {
			t.Fatalf("%d wait", n)
		}
		q.Leave()
		synctest.Wait()
		if want := []string{"flood0", "quiet0", "other0", "flood1", "quiet1", "flood2", "quiet2", "flood3"}; !slices.Equal(order[:8], want) {
			t.Errorf("the first are %v", order[:8])
		}
		if len(order) != 1004 || q.Waiting() != 0 {
			t.Errorf("%d came in, %d wait", len(order), q.Waiting())
		}
	})
}

// Who gives up leaves no gap and takes no place with him.
func TestGivingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := fairqueue.New(2)
		q.Enter(t.Context(), "a")
		q.Enter(t.Context(), "a")
		ctx, cancel := context.WithCancel(t.Context())
		in := make(chan bool, 3)
		for _, c := range []context.Context{ctx, ctx, t.Context()} {
			go func() { in <- q.Enter(c, "b") }()
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
		if a, b := <-in, <-in; a || b || q.Waiting() != 1 {
			t.Fatalf("given up: %t %t, %d wait", a, b, q.Waiting())
		}
		q.Leave()
		if !<-in {
			t.Error("the one that waits did not come in")
		}
		q.Leave()
		q.Leave()
		if !q.Enter(t.Context(), "c") || !q.Enter(t.Context(), "c") {
			t.Error("the places are lost")
		}
	})
}
