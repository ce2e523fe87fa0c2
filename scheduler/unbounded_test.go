package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestWhoeverAddsNodesSeesPods: where a configuration names no enqueue, PodGroups are let
// in whose minimum no node has yet, as in Volcano: their pods are made and marked, and
// an autoscaler adds the nodes. Who may not have a place at all is kept out.
func TestWhoeverAddsNodesSeesPods(t *testing.T) {
	const tiers = "tiers: [{plugins: [{name: priority}, {name: proportion}, {name: predicates}]}]\n"
	for actions, want := range map[string]string{
		"enqueue, allocate": "wait g NoCapacity",
		"allocate":          "status g phase=Inqueue",
	} {
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n1 cpu=8", "queue shut state=Closed",
			"group g phase=Pending min=4 minres.gpu=16", "group h phase=Pending min=1 queue=shut minres.cpu=1",
		} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		p := scheduler.Cycle(pipelineOf(t, "actions: \""+actions+"\"\n"+tiers), w.Snapshot(), w.Now).String()
		if !strings.Contains(p, want) || !strings.Contains(p, "wait h QueueClosed") {
			t.Errorf("actions %s: want %q in\n%s", actions, want, p)
		}
	}
}
