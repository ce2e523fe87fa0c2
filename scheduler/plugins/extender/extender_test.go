package extender_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/extender"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// world has nodes a, b and c and one pod, whose class it tells.
func world() (*schedtest.World, string) {
	w := schedtest.NewWorld()
	for _, name := range []string{"a", "b", "c"} {
		w.SetNode(schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: 4}, resource.Quantity{Name: "pods", Amount: 9}))
	}
	return w, w.AddGang("g", 1).AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1})})[0].Needs.Key()
}

func cycle(w *schedtest.World, p extender.Plugin) plan.Plan {
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins, p)
	return scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
}

// TestWhatTheExtenderSaysCounts has a row for each thing that it may say, or not.
func TestWhatTheExtenderSaysCounts(t *testing.T) {
	both := extender.Plugin{URL: "http://x", Predicate: "predicate", Prioritize: "prioritize"}
	with := func(f func(*extender.Plugin)) extender.Plugin { p := both; f(&p); return p }
	says := func(nodes ...snapshot.NodeOpinion) *snapshot.Opinion { return &snapshot.Opinion{Nodes: nodes} }
	for name, c := range map[string]struct {
		plugin  extender.Plugin
		opinion *snapshot.Opinion
		node    string // where the pod goes, "" if it waits
		reason  string
	}{
		"not asked yet":         {both, nil, "", "3 nodes: " + extender.Unasked},
		"no verb":               {with(func(p *extender.Plugin) { p.Predicate, p.Prioritize = "", "" }), nil, "a", ""},
		"of no concern":         {with(func(p *extender.Plugin) { p.Managed = []string{"example.com/foo"} }), nil, "a", ""},
		"managed":               {with(func(p *extender.Plugin) { p.Managed = []string{"example.com/foo", "cpu"} }), nil, "", extender.Unasked},
		"a node is refused":     {both, says(snapshot.NodeOpinion{Node: "a", Why: "the extender says: no"}, snapshot.NodeOpinion{Node: "b"}, snapshot.NodeOpinion{Node: "c"}), "b", ""},
		"a node is better":      {both, says(snapshot.NodeOpinion{Node: "a", Score: -1}, snapshot.NodeOpinion{Node: "b", Score: 1}, snapshot.NodeOpinion{Node: "c", Score: 2}), "c", ""},
		"a node is new":         {both, says(snapshot.NodeOpinion{Node: "a", Why: "the extender says: no"}, snapshot.NodeOpinion{Node: "b", Why: "the extender says: no"}), "", "1 node: " + extender.Unasked},
		"no answer":             {both, &snapshot.Opinion{Failed: "connection refused"}, "", "3 nodes: the extender did not answer: connection refused"},
		"no answer, but no ill": {with(func(p *extender.Plugin) { p.Ignorable = true }), &snapshot.Opinion{Failed: "connection refused"}, "a", ""},
	} {
		w, class := world()
		if c.opinion != nil {
			o := *c.opinion
			o.Class = class
			w.Opinions = []snapshot.Opinion{o, {Class: "another"}}
		}
		p := cycle(w, c.plugin)
		switch {
		case c.node != "":
			if len(p.Placements) != 1 || p.Placements[0].Binds[0].Node != c.node {
				t.Errorf("%s: want node %s:\n%s", name, c.node, p)
			}
		case len(p.Unschedulable) != 1 || !strings.Contains(p.Unschedulable[0].Message, c.reason):
			t.Errorf("%s: want the reason %q:\n%s", name, c.reason, p)
		}
	}
}
