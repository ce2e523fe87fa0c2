package overcommit_test

import (
	"fmt"
	"strings"
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
		got.Unschedulable[0].Message != "10 gpu are held and wanted by gangs that count before it, and 10 may be, 100 % of what there is; its minimum is 10, and 1 that were let in wait before it in its queue" {
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

// TestQueuesAreLetInInTurn: what little may be let in is shared among the queues, whoever
// asked first, and a queue that has its part let in comes after one that has nothing,
// which has its part let in whatever others do.
func TestQueuesAreLetInInTurn(t *testing.T) {
	for name, tc := range map[string]struct {
		before int // gangs of a that were let in before
		want   string
	}{
		"nobody is in yet":      {want: "a0 a1 b0 b1"},
		"one queue is in":       {before: 2, want: "b0 b1"},
		"one queue has its all": {before: 4, want: "b0 b1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := schedtest.NewWorld()
			w.Queues = append(w.Queues, snapshot.Queue{Name: "a", Weight: 1, State: "Open"}, snapshot.Queue{Name: "b", Weight: 1, State: "Open"})
			w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 40}, resource.Quantity{Name: "pods", Amount: 100}))
			add := func(queue, name, phase string, priority int32) {
				g := w.AddGang(name, 1)
				g.Queue, g.Priority, g.Status.Phase = queue, priority, phase
				g.MinResources = resource.MakeList(resource.Quantity{Name: "gpu", Amount: 10})
			}
			for i := range tc.before {
				add("a", fmt.Sprint("before", i), snapshot.GroupInqueue, 1)
			}
			for i := range 4 { // older, and of a higher priority
				add("a", fmt.Sprint("a", i), snapshot.GroupPending, 1)
			}
			for i := range 4 {
				add("b", fmt.Sprint("b", i), snapshot.GroupPending, 0)
			}
			p := schedtest.Pipeline()
			p.Plugins = append(p.Plugins, overcommit.Plugin{Percent: 100})
			var in []string
			for _, s := range scheduler.Cycle(p, w.Snapshot(), w.Now).Statuses {
				if s.Want.Phase == snapshot.GroupInqueue && !strings.HasPrefix(s.Name, "before") {
					in = append(in, s.Name)
				}
			}
			if got := strings.Join(in, " "); got != tc.want {
				t.Errorf("%q are let in, want %q", got, tc.want)
			}
		})
	}
}
