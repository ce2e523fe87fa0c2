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
		q := fairqueue.New(1, 1)
		q.Enter(t.Context(), "flood")
		var order []string
		enter := func(tenant string, n int) {
			for i := range n {
				go func() {
					if q.Enter(t.Context(), tenant) {
						order = append(order, fmt.Sprint(tenant, i))
						q.Leave(tenant)
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
		q.Leave("flood")
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
		q := fairqueue.New(2, 2)
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
		q.Leave("a")
		if !<-in {
			t.Error("the one that waits did not come in")
		}
		q.Leave("a")
		q.Leave("b")
		for range 2 {
			if !q.Enter(t.Context(), "c") {
				t.Error("a place is lost")
			}
		}
	})
}

// A tenant has no more than its part, also when nobody else is there; the rest is
// for who comes.
func TestPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := fairqueue.New(5, 3)
		in := map[string]int{}
		for _, tenant := range []string{"a", "a", "a", "a", "a", "b", "b", "b"} {
			go func() {
				if q.Enter(t.Context(), tenant) {
					in[tenant]++
				}
			}()
			synctest.Wait()
		}
		if in["a"] != 3 || in["b"] != 2 || q.Waiting() != 3 {
			t.Fatalf("%v are in, %d wait", in, q.Waiting())
		}
		q.Leave("b") // a waits longer, and has its part
		synctest.Wait()
		if in["a"] != 3 || in["b"] != 3 {
			t.Errorf("%v came in", in)
		}
		for range 2 {
			q.Leave("a")
			synctest.Wait()
		}
		if in["a"] != 5 || q.Waiting() != 0 {
			t.Errorf("%v came in, %d wait", in, q.Waiting())
		}
	})
}

// A part that grows lets those in that wait, and one that shrinks takes nothing back.
func TestSetPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := fairqueue.New(3, 1)
		in := make(chan bool, 3)
		for range 3 {
			go func() { in <- q.Enter(t.Context(), "a") }()
		}
		synctest.Wait()
		if n := q.Waiting(); n != 2 {
			t.Fatalf("%d wait for a part of one, want 2", n)
		}
		q.SetPart(3)
		synctest.Wait()
		if n := q.Waiting(); n != 0 {
			t.Errorf("%d wait though the part is three", n)
		}
		for range 3 {
			if !<-in {
				t.Error("one did not come in")
			}
		}
		q.SetPart(0)
		q.Leave("a")
		if !q.Enter(t.Context(), "b") {
			t.Error("another does not come in")
		}
	})
}
