package scheduler_test

import (
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Room that is said to be kept for longer than a scheduler keeps any is kept for nobody.
func TestNominationForTooLong(t *testing.T) {
	w := schedtest.NewWorld()
	cpu := func(n int64) resource.List {
		return resource.MakeList(resource.Quantity{Name: "cpu", Amount: n}, resource.Quantity{Name: "pods", Amount: 1})
	}
	w.SetNode(schedtest.Real("n1", resource.Quantity{Name: "cpu", Amount: 4000}, resource.Quantity{Name: "pods", Amount: 100}))
	w.AddGang("good", 1).AddPods("w", 1, snapshot.ClassSpec{Requests: cpu(1000)})
	b := w.AddGang("bad", 1)
	b.Status.Phase = snapshot.GroupPending
	b.MinResources = cpu(1 << 40)
	b.Nominated = &snapshot.Nomination{
		Domain: "nodes", Until: w.Now.Add(24 * time.Hour).UnixNano(),
		Pods: []snapshot.NominatedPod{{UID: "x", Name: "y", Node: "n1", Needs: cpu(4000)}},
	}
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Placements) != 1 {
		t.Errorf("want good placed:\n%s", p)
	}
}
