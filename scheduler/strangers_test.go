package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestPodsOfOtherSchedulersAreNamed: a gang that has too few pods says so of those that name
// it and the scheduler of somebody else.
func TestPodsOfOtherSchedulersAreNamed(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"node n1 cpu=8", "group g min=3", "pods g w 1 cpu=1", "group h min=1", "pods h w 1 cpu=1"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	s := w.Snapshot()
	for _, g := range s.Gangs {
		g.Strangers = []snapshot.Strangers{{Scheduler: "default-scheduler", Pods: 2}, {Scheduler: "kueue", Pods: 1}}
	}
	p := scheduler.Cycle(schedtest.Pipeline(), s, w.Now)
	const want = "the gang has 1 pods and needs 3; 2 pods that name it name another scheduler, default-scheduler; 1 pod that names it names another scheduler, kueue"
	if len(p.Placements) != 1 || len(p.Unschedulable) != 1 || !strings.HasPrefix(p.Unschedulable[0].Message, want) {
		t.Errorf("the plan is\n%s", p)
	}
}
