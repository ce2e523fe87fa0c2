package scheduler_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func claimants(p plan.Plan) (names []string) {
	for _, c := range p.Claims {
		names = append(names, c.Name)
	}
	return names
}

// TestOthersMayDisplaceWhereOneIsNotServed: room is made on a virtual node for the gang
// of the namespace that it serves, whoever of another namespace asks before in vain.
func TestOthersMayDisplaceWhereOneIsNotServed(t *testing.T) {
	w := schedtest.NewWorld()
	n := schedtest.Virtual("hpc", hostshape.Shapes{Shapes: []hostshape.Shape{{Count: 1, Resources: map[string]int64{"cpu": 8000}}}})
	n.Serves = []string{"kubernetes.io/metadata.name=other"}
	w.SetNode(n)
	add := func(name, namespace string, priority int32) {
		g := w.AddGang(name, 1)
		g.Key, g.Namespace, g.Priority = "podgroup/"+namespace+"/"+name, namespace, priority
		g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 8000})})
	}
	add("low", "other", 0)
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	w.Settle(time.Hour)
	add("a", "first", 5)
	add("b", "other", 5)
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if got := claimants(p); !slices.Equal(got, []string{"b"}) {
		t.Errorf("room is to be made for b alone, not for %v:\n%s", got, p)
	}
}

// TestOthersMoveForWhoEndsBefore: gangs are moved for one that ends before a reservation
// begins, whoever before it in the order would not.
func TestOthersMoveForWhoEndsBefore(t *testing.T) {
	pipe := pipelineOf(t, strings.Replace(consolidating, ", elastic, preempt, reclaim", "", 1))
	for name, reservation := range map[string]string{
		"whole nodes": "reserve r from=1h for=2h nodes=n1,n2 queues=own",
		"an amount":   "reserve r from=1h for=2h count=2 each.gpu=4 queues=own",
	} {
		w := fragmented(t, "movable")
		for _, g := range w.Gangs {
			g.Estimate, g.EstimateFrom = int64(30*time.Minute), snapshot.EstimateDeclared
		}
		w.Gang("wide").Estimate = int64(3 * time.Hour)
		for _, line := range []string{"queue own", reservation, "group short min=1 estimate=10m", "pods short w 1 gpu=4"} {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		if got := claimants(p); len(got) != 2 || got[1] != "short" {
			t.Errorf("%s: a gang is to be moved for the short one: %v\n%s", name, got, p)
		}
	}
}
