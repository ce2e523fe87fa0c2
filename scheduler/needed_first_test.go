package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestWhatLeavesIsForTheFirst: room becomes free by itself that the second in turn would
// fit. The first needs more, and only an action that runs later can make it: what becomes
// free counts for it all the same, so that one pod goes and not two.
func TestWhatLeavesIsForTheFirst(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n cpu=64 gpu=4", "queue qa weight=1", "queue qb weight=1",
		"group many min=1 queue=qb", "pods many w 3 gpu=1", "group gone min=1 queue=qb", "pods gone w 1 gpu=1",
		"cycle", "settle 10m", "terminate gone",
		"group first min=2 queue=qa", "pods first w 2 gpu=1",
		"group second min=1 queue=qb", "pods second w 1 gpu=1",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	p := scheduler.Cycle(pipelineOf(t, strings.Replace(config.Standard, ", repair", "", 1)), w.Snapshot(), w.Now)
	if len(p.Claims) != 1 || p.Claims[0].Name != "first" || len(p.Claims[0].Evictions) != 1 {
		t.Errorf("one pod is to go, for the first:\n%s", p)
	}
	for _, u := range p.Unschedulable {
		if u.Name == "second" && strings.Contains(u.Message, "going away") {
			t.Errorf("the second is told of room that it will not have: %s", u.Message)
		}
	}
}
