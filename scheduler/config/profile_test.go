package config_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func TestProfilesAreReadStrictly(t *testing.T) {
	for want, spec := range map[string]config.ProfileSpec{
		"spec.actions[0]":                               {Actions: []string{"evict"}},
		"spec.plugins[0].name":                          {Plugins: []config.ProfilePlugin{{Name: "magic"}}},
		"spec.plugins[1].name":                          {Plugins: []config.ProfilePlugin{{Name: "gang"}, {Name: "capacity"}}},
		`spec.plugins[0].arguments["sla-waiting-time"]`: {Plugins: []config.ProfilePlugin{{Name: "sla", Arguments: map[string]string{"sla-waiting-time": "soon"}}}},
		`spec.plugins[0].arguments["speed"]`:            {Plugins: []config.ProfilePlugin{{Name: "sla", Arguments: map[string]string{"speed": "1"}}}},
	} {
		if _, _, err := config.Profile(spec); !pathIs(err, want) {
			t.Errorf("%+v gave %v, want an error at %s", spec, err, want)
		}
	}
	p, warnings, err := config.Profile(config.ProfileSpec{
		Name: "p", Actions: []string{"gangpreempt"},
		Plugins: []config.ProfilePlugin{{Name: "drf", Arguments: map[string]string{"drf.by": "namespace"}}, {Name: "usage", Arguments: map[string]string{"estimator.type": "x"}}},
	})
	if err != nil || len(warnings) != 1 || strings.Join(p.Actions, " ") != "enqueue allocate preempt gangpreempt" || p.Plugins[0].Name() != "drf" {
		t.Errorf("%v, %q, %+v", err, warnings, p)
	}
	if got := pluginNames(framework.Pipeline{Plugins: p.Plugins}); !strings.Contains(got, "predicates") {
		t.Errorf("plugins are %s: what a node rules out is no matter of taste", got)
	}
}

// TestAProfileIsForItsQueueAlone has two queues with one young gang of high
// priority and one old one each; in queue b priority does not count. And where
// the strict node group keeps others off, b's gangs may go.
func TestAProfileIsForItsQueueAlone(t *testing.T) {
	w := schedtest.NewWorld()
	w.Queues = []snapshot.Queue{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}}
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 2}, resource.Quantity{Name: "pods", Amount: 100}))
	for _, queue := range []string{"a", "b"} {
		for i, name := range []string{"old", "young"} {
			g := w.AddGang(queue+"-"+name, 1)
			g.Queue, g.Priority = queue, int32(i)
			g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "gpu", Amount: 1})})
		}
	}
	p := schedtest.Pipeline()
	profile, _, err := config.Profile(config.ProfileSpec{Name: "by age", Plugins: []config.ProfilePlugin{{Name: "gang"}}})
	if err != nil {
		t.Fatal(err)
	}
	p.Profiles = map[string]framework.Profile{"b": profile}
	if got := placedNames(scheduler.Cycle(p, w.Snapshot(), w.Now)); got != "a-young b-old" {
		t.Errorf("placed: %s", got)
	}

	w.Nodes[0].Labels = map[string]string{"volcano.sh/nodegroup-name": "fast"}
	c, _, err := config.Parse([]byte("actions: allocate\ntiers: [{plugins: [{name: priority}, {name: proportion}, {name: nodegroup}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	strict := c.Pipeline()
	strict.Profiles = p.Profiles
	if got := placedNames(scheduler.Cycle(strict, w.Snapshot(), w.Now)); got != "b-old b-young" {
		t.Errorf("placed with the strict plugin: %s", got)
	}
}

// TestAProfileKeepsActionsAway: nobody is preempted for a queue whose profile has
// no preempt.
func TestAProfileKeepsActionsAway(t *testing.T) {
	claims := func(actions []string) int {
		w := schedtest.NewWorld()
		w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 1}, resource.Quantity{Name: "pods", Amount: 100}))
		low := w.AddGang("low", 1)
		needs := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "gpu", Amount: 1})}
		for _, pod := range low.AddPods("w", 1, needs) {
			pod.Node, pod.Phase = "n", snapshot.PodRunning
		}
		high := w.AddGang("high", 1)
		high.Priority = 10
		high.AddPods("w", 1, needs)
		p := schedtest.Pipeline()
		if actions != nil {
			profile, _, err := config.Profile(config.ProfileSpec{Name: "p", Actions: actions})
			if err != nil {
				t.Fatal(err)
			}
			p.Profiles = map[string]framework.Profile{"default": profile}
		}
		return len(scheduler.Cycle(p, w.Snapshot(), w.Now).Claims)
	}
	if all, none, preempts := claims(nil), claims([]string{}), claims([]string{"gangpreempt"}); all != 1 || none != 0 || preempts != 1 {
		t.Errorf("claims: %d without a profile, %d without actions, %d with preemption", all, none, preempts)
	}
}

// TestBackfillOfAProfile: without it no start of the queue's gangs is planned, and nobody
// is kept off for one.
func TestBackfillOfAProfile(t *testing.T) {
	for _, c := range []struct {
		actions []string
		heads   int
	}{{nil, 1}, {[]string{"backfill"}, 1}, {[]string{}, 0}, {[]string{"preempt"}, 0}} {
		pipe := config.Default()
		if c.actions != nil {
			profile, _, err := config.Profile(config.ProfileSpec{Name: "p", Actions: c.actions})
			if err != nil {
				t.Fatal(err)
			}
			pipe.Profiles = map[string]framework.Profile{"default": profile}
		}
		w := schedtest.NewWorld()
		for _, line := range []string{"node n cpu=8 gpu=1", "group a min=1 estimate=2h", "pods a w 1 gpu=1", "cycle", "settle 5m", "group b min=1 estimate=1h", "pods b w 1 gpu=1"} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); len(p.Heads) != c.heads {
			t.Errorf("actions %v: %d planned starts, want %d:\n%s", c.actions, len(p.Heads), c.heads, p)
		}
	}
}

// TestActionsGoByTheirConfiguredNames: what is told of evictions names the action as the
// configuration does, and a profile serves it by either name.
func TestActionsGoByTheirConfiguredNames(t *testing.T) {
	for _, name := range []string{"preempt", "gangpreempt"} {
		for _, served := range []string{"preempt", "gangpreempt"} {
			c, _, err := config.Parse([]byte("actions: \"enqueue, allocate, " + name + "\"\ntiers: [{plugins: [{name: priority}, {name: gang}]}]\n"))
			if err != nil {
				t.Fatal(err)
			}
			profile, _, err := config.Profile(config.ProfileSpec{Name: "p", Actions: []string{served}})
			if err != nil {
				t.Fatal(err)
			}
			pipe := c.Pipeline()
			pipe.Profiles = map[string]framework.Profile{"default": profile}
			w := schedtest.NewWorld()
			for _, line := range []string{"node n cpu=8 gpu=1", "group low min=1", "pods low w 1 gpu=1", "cycle", "settle 5m", "group high min=1 priority=5", "pods high w 1 gpu=1"} {
				if _, err := w.Do(line); err != nil {
					t.Fatal(err)
				}
			}
			p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			if len(p.Claims) != 1 || p.Claims[0].Action != name || p.Claims[0].Evictions[0].Reason != name || !strings.HasPrefix(p.Claims[0].Evictions[0].Message, name+" for ") {
				t.Errorf("configured as %s, in the profile %s:\n%s", name, served, p)
			}
		}
	}
}

func placedNames(p plan.Plan) string {
	var out []string
	for _, pl := range p.Placements {
		out = append(out, pl.Name)
	}
	return strings.Join(out, " ")
}
