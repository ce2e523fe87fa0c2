package scheduler_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/tasktopology"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestTasksApartHoweverTheyStart: members that a gang starts with, and those that join it in
// the same cycle, count once each when its tasks are to keep apart.
func TestTasksApartHoweverTheyStart(t *testing.T) {
	for minimum := int64(1); minimum <= 6; minimum++ {
		w := schedtest.NewWorld()
		for i := range 2 {
			w.SetNode(schedtest.Real(fmt.Sprintf("n%d", i), resource.Quantity{Name: "cpu", Amount: 20}, resource.Quantity{Name: "pods", Amount: 99}))
		}
		g := w.AddGang("g", minimum)
		g.Tasks = &snapshot.TaskTopology{Apart: [][]string{{"worker"}}}
		g.AddPods("worker", 6, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1})})
		pipe := schedtest.Pipeline()
		pipe.Plugins = append(pipe.Plugins, tasktopology.Plugin{Weight: 1})
		on := map[string]int{}
		for _, pl := range scheduler.Cycle(pipe, w.Snapshot(), w.Now).Placements {
			for _, b := range pl.Binds {
				on[b.Node]++
			}
		}
		if on["n0"] != 3 || on["n1"] != 3 {
			t.Errorf("with a minimum of %d the members are on %v", minimum, on)
		}
	}
}
