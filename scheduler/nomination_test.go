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

// TestNominationForEverProtectsNobody: a nomination that no scheduler would have written, on
// a gang that runs, does not spare it.
func TestNominationForEverProtectsNobody(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n cpu=16 gpu=4", "group low min=1 priority=0", "pods low w 1 cpu=1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	w.Gang("low").Nominated = &snapshot.Nomination{Domain: "nodes", Until: w.Now.AddDate(1, 0, 0).UnixNano()}
	for _, line := range []string{"settle 10m", "group high min=1 priority=2", "pods high w 1 cpu=1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Claims) != 1 {
		t.Errorf("it is spared:\n%s", p)
	}
}
