package scheduler_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestSettledGangsAllocateNothing: a gang that runs, and of which all is said, has no part in
// what a cycle allocates: there are thousands of them where one comes or goes. What is left
// are lists that grow with the number of gangs, in one piece each.
func TestSettledGangsAllocateNothing(t *testing.T) {
	of := func(gangs int) float64 {
		w := schedtest.NewWorld()
		do := func(format string, a ...any) {
			if _, err := w.Do(fmt.Sprintf(format, a...)); err != nil {
				t.Fatal(err)
			}
		}
		do("node n cpu=1000 gpu=1000 pods=1000")
		for i := range gangs {
			do("group g%d min=2", i)
			do("pods g%d w 2 cpu=1 gpu=1", i)
		}
		for range 4 {
			w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
			w.Settle(time.Minute)
		}
		s := w.Snapshot()
		if p := scheduler.Cycle(schedtest.Pipeline(), s, w.Now); p.String() != "" {
			t.Fatalf("the gangs have not settled:\n%s", p)
		}
		return testing.AllocsPerRun(5, func() { scheduler.Cycle(schedtest.Pipeline(), s, w.Now) })
	}
	if few, many := of(20), of(120); many-few > 20 {
		t.Errorf("100 more gangs cost a cycle %v allocations more", many-few)
	}
}
