package scheduler_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestOverlappingReservationsCostNoMoreForMoreGangs: an amount that is kept on nodes which
// another reserved later is looked at for each gang of its owners, and costs each the same.
func TestOverlappingReservationsCostNoMoreForMoreGangs(t *testing.T) {
	cost := func(gangs int) float64 {
		w := schedtest.NewWorld()
		do := func(line string) {
			if _, err := w.Do(line); err != nil {
				t.Fatal(line, err)
			}
		}
		do("queue p")
		do("queue w")
		var names []string
		for i := range 20 {
			names = append(names, fmt.Sprint("n", i))
			do(fmt.Sprintf("node n%d gpu=8", i))
		}
		do("reserve p for=2h count=20 each.gpu=8 queues=p")
		w.Now = w.Now.Add(time.Minute)
		do("reserve w for=2h nodes=" + strings.Join(names, ",") + " queues=w")
		for i := range gangs {
			do(fmt.Sprintf("group g%d queue=p min=2", i))
			do(fmt.Sprintf("pods g%d w 2 gpu=9", i))
		}
		pipe := schedtest.Pipeline()
		s := w.Snapshot()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		scheduler.Cycle(pipe, s, w.Now)
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc-before.TotalAlloc) / float64(gangs)
	}
	if few, many := cost(50), cost(400); many > 2*few {
		t.Errorf("%.0f bytes for each of 50 gangs, %.0f for each of 400", few, many)
	}
}
