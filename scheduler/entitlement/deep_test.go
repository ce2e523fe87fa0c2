package entitlement_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// chain is so many queues, each below the one before, with gangs in the last.
func chain(n int) *snapshot.Snapshot {
	w := world(12)
	for i := range n {
		q := snapshot.Queue{Name: fmt.Sprintf("q%05d", i), Weight: 1}
		if i > 0 {
			q.Parent = fmt.Sprintf("q%05d", i-1)
		}
		w.Queues = append(w.Queues, q)
	}
	last := w.Queues[n-1].Name
	holds(w, last, 3)
	wants(w, last, 5)
	return w.Snapshot()
}

// TestDeepQueuesAreCountedOnce: what a queue costs does not grow with how many are above it.
func TestDeepQueuesAreCountedOnce(t *testing.T) {
	bytes := func(n int) uint64 {
		s := chain(n)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		entitlement.New(s, entitlement.Options{})
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	if small, large := bytes(500), bytes(4000); large > 10*small {
		t.Errorf("a chain of 500 queues takes %d bytes and one of 4000 takes %d", small, large)
	}
}

// TestWaysThroughDeepQueues looks at the ends of a chain of queues.
func TestWaysThroughDeepQueues(t *testing.T) {
	s := chain(1000)
	l := entitlement.New(s, entitlement.Options{})
	d, _ := s.Dims.Index(gpu)
	above := l.Above("q00999")
	if len(above) != 1000 || above[0].Name != "q00000" || above[999].Name != "q00999" {
		t.Fatalf("%d queues are above the last", len(above))
	}
	if own := l.Above("q00003"); len(own) != 5 || !own[4].Own || own[3].Name != "q00003" {
		t.Errorf("above the gangs of q00003 are %d queues", len(own))
	}
	if x, y := l.Branches("q00003", "q00999"); !x.Own || x.Name != "q00003" || y.Name != "q00004" {
		t.Errorf("the ways to q00003 and the last part at %s and %s", x.Name, y.Name)
	}
	if x, y := l.Branches("q00999", "q00999"); x != y || x != above[999] {
		t.Errorf("the way to the last parts from itself at %s and %s", x.Name, y.Name)
	}
	need := make(resource.Vector, s.Dims.Len())
	need[d] = 9
	l.Take("q00999", need, 1)
	for _, q := range append(above, l.Queue(entitlement.Root)) {
		if q.Held[d] != 12 {
			t.Fatalf("queue %s holds %d", q.Name, q.Held[d])
		}
	}
}

// BenchmarkDeepQueues is the ledger of queues each below the one before.
func BenchmarkDeepQueues(b *testing.B) {
	for _, n := range []int{1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := chain(n)
			b.ReportAllocs()
			for b.Loop() {
				entitlement.New(s, entitlement.Options{})
			}
		})
	}
}
