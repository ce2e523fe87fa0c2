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

// TestNobodyIsSentAwayForAndGoes: others go for what a gang lacks, and in the same cycle one
// of higher priority, which comes later in the order, does not take the place of what it has.
func TestNobodyIsSentAwayForAndGoes(t *testing.T) {
	w := schedtest.NewWorld()
	do := func(lines ...string) {
		for _, line := range lines {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	do("node n0 cpu=16 gpu=6", "node n1 cpu=16 gpu=7", "group half min=2 priority=1", "pods half w 2 cpu=1 gpu=4")
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	do("lose half-w-1", "group low min=1 priority=0", "pods low w 1 cpu=1 gpu=4")
	low, stays := w.Gang("low").Pods[0], w.Gang("half").Pods[0].Node
	low.Node, low.Attempt, low.Size = map[string]string{"n0": "n1", "n1": "n0"}[stays], "a", 1
	do("settle 10m", "group high min=1 priority=2", "pods high w 1 cpu=1 gpu=4")
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	if len(p.Claims) != 1 || p.Claims[0].Name != "half" || len(p.Claims[0].Evictions) != 1 || p.Claims[0].Evictions[0].Name != "low-w-0" {
		t.Errorf("one pod is to go, for what is half placed:\n%s", p)
	}
}
