package overcommit_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/overcommit"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestOnlySoMuchIsLetIn has ten GPUs and gangs of four: at 120 % three are let in.
func TestOnlySoMuchIsLetIn(t *testing.T) {
	for percent, want := range map[int64]int{0: 2, 100: 2, 120: 3} {
		w := schedtest.NewWorld()
		w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 10}, resource.Quantity{Name: "pods", Amount: 100}))
		for _, name := range []string{"a", "b", "c", "d"} {
			g := w.AddGang(name, 1)
			g.Status.Phase = snapshot.GroupPending
			g.MinResources = resource.MakeList(resource.Quantity{Name: "gpu", Amount: 4})
		}
		p := schedtest.Pipeline()
		p.Plugins = append(p.Plugins, overcommit.Plugin{Percent: percent})
		let := 0
		for _, s := range scheduler.Cycle(p, w.Snapshot(), w.Now).Statuses {
			if s.Want.Phase == snapshot.GroupInqueue {
				let++
			}
		}
		if let != want {
			t.Errorf("at %d %%: %d let in, want %d", percent, let, want)
		}
	}
}

// TestALoneGangIsLetIn: nobody else wants anything.
func TestALoneGangIsLetIn(t *testing.T) {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 10}, resource.Quantity{Name: "pods", Amount: 100}))
	g := w.AddGang("a", 1)
	g.Status.Phase = snapshot.GroupPending
	g.MinResources = resource.MakeList(resource.Quantity{Name: "gpu", Amount: 10})
	p := schedtest.Pipeline()
	p.Plugins = append(p.Plugins, overcommit.Plugin{Percent: 100})
	got := scheduler.Cycle(p, w.Snapshot(), w.Now)
	if len(got.Statuses) != 1 || got.Statuses[0].Want.Phase != snapshot.GroupInqueue {
		t.Errorf("plan is:\n%s", got)
	}
	g.Status.Phase = snapshot.GroupInqueue
	w.AddGang("b", 1).GangSpec = func() snapshot.GangSpec {
		s := g.GangSpec
		s.Key, s.UID, s.Name, s.Status.Phase = "podgroup/default/b", "b", "b", snapshot.GroupPending
		return s
	}()
	got = scheduler.Cycle(p, w.Snapshot(), w.Now)
	if len(got.Unschedulable) == 0 || got.Unschedulable[0].Code != plan.Overcommitted ||
		got.Unschedulable[0].Message != "gangs that were let in want 10 gpu and 10 is the limit; the gang's minimum is 10" {
		t.Errorf("plan is:\n%s", got)
	}
}

// TestTheFirstIsLetIn: gangs are let in in their order, not in that of their names.
func TestTheFirstIsLetIn(t *testing.T) {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 10}, resource.Quantity{Name: "pods", Amount: 100}))
	for i, name := range []string{"a", "b", "c", "d"} {
		g := w.AddGang(name, 1)
		g.Status.Phase, g.Priority = snapshot.GroupPending, int32(i)
		g.MinResources = resource.MakeList(resource.Quantity{Name: "gpu", Amount: 10})
	}
	p := schedtest.Pipeline()
	p.Plugins = append(p.Plugins, overcommit.Plugin{Percent: 100})
	for _, s := range scheduler.Cycle(p, w.Snapshot(), w.Now).Statuses {
		if in := s.Want.Phase == snapshot.GroupInqueue; in != (s.Name == "d") {
			t.Errorf("%s: let in %v", s.Name, in)
		}
	}
}
