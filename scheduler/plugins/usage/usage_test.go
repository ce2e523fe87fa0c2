package usage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/usage"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// world has three equal nodes and one pod.
func world(loads ...snapshot.Load) *schedtest.World {
	w := schedtest.NewWorld()
	for _, name := range []string{"a", "b", "c"} {
		w.SetNode(schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: 4}, resource.Quantity{Name: "pods", Amount: 9}))
	}
	w.AddGang("g", 1).AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1})})
	for _, l := range loads {
		if l.At == 0 {
			l.At = w.Now.UnixNano()
		}
		w.Loads = append(w.Loads, l)
	}
	return w
}

func cycle(w *schedtest.World, p usage.Plugin) plan.Plan {
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins, p)
	return scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
}

var volcanos = usage.Plugin{Weight: 5, CPU: 1, Memory: 1, MostCPU: 800, MostMemory: 700}

// TestWhereAPodGoes: to the node that idles most of those below the thresholds.
func TestWhereAPodGoes(t *testing.T) {
	stale := world().Now.Add(-6 * time.Minute).UnixNano()
	for name, c := range map[string]struct {
		plugin usage.Plugin
		loads  []snapshot.Load
		want   string
	}{
		"nothing measured": {volcanos, nil, "a"},
		"the idlest":       {volcanos, []snapshot.Load{{Node: "a", CPU: 700, Memory: 100}, {Node: "b", CPU: 300, Memory: 300}, {Node: "c", CPU: 100, Memory: 600}}, "b"},
		"by memory":        {usage.Plugin{Weight: 1, Memory: 1}, []snapshot.Load{{Node: "a", CPU: 0, Memory: 900}, {Node: "b", CPU: 999, Memory: 10}}, "b"},
		"at the threshold": {volcanos, []snapshot.Load{{Node: "a", CPU: 801}, {Node: "b", CPU: 800, Memory: 700}, {Node: "c", Memory: 701}}, "b"},
		"too old to count": {volcanos, []snapshot.Load{{Node: "a", CPU: 999, At: stale}}, "a"},
		"only scored":      {usage.Plugin{Weight: 1, CPU: 1}, []snapshot.Load{{Node: "a", CPU: 1000}, {Node: "b", CPU: 1000}, {Node: "c", CPU: 990}}, "c"},
	} {
		p := cycle(world(c.loads...), c.plugin)
		if len(p.Placements) != 1 || p.Placements[0].Binds[0].Node != c.want {
			t.Errorf("%s: want node %s, got\n%s", name, c.want, p)
		}
	}
}

// TestWhyAPodWaits: all nodes are too busy, and the reason says of what.
func TestWhyAPodWaits(t *testing.T) {
	p := cycle(world(snapshot.Load{Node: "a", CPU: 900}, snapshot.Load{Node: "b", CPU: 900}, snapshot.Load{Node: "c", Memory: 900}), volcanos)
	if len(p.Placements) != 0 || len(p.Unschedulable) != 1 {
		t.Fatalf("plan is\n%s", p)
	}
	for _, want := range []string{"2 nodes: its processors are busier than 80 %", "1 node: its memory is fuller than 70 %"} {
		if !strings.Contains(p.Unschedulable[0].Message, want) {
			t.Errorf("%q does not say %q", p.Unschedulable[0].Message, want)
		}
	}
}
