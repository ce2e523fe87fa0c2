package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// capacityWith is the standard pipeline with plugin capacity and its arguments or switches.
func capacityWith(t *testing.T, rest string) framework.Pipeline {
	t.Helper()
	return pipelineOf(t, strings.Replace(config.Standard, "- name: proportion", "- {name: capacity"+rest+"}", 1))
}

// TestAncestorReclaimLevel: a queue holds more than it deserves, and the one above it does
// not: how far up is looked decides whether another takes it back.
func TestAncestorReclaimLevel(t *testing.T) {
	for rest, want := range map[string]bool{
		"": false, ", arguments: {ancestorReclaimLevel: 1}": false, ", arguments: {ancestorReclaimLevel: 3}": false,
		", arguments: {ancestorReclaimLevel: 0}": true,
	} {
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n cpu=64 gpu=8",
			"queue t0 deserved.gpu=5", "queue t1 deserved.gpu=3", "queue a parent=t0 deserved.gpu=2", "queue b parent=t1 deserved.gpu=3",
			"queue kept keep",
			"group a min=1 queue=a", "pods a w 4 gpu=1", "group kept min=1 queue=kept", "pods kept w 4 gpu=1",
			"cycle", "settle 10m",
			"group b min=2 queue=b", "pods b w 2 gpu=1",
		} {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		p := scheduler.Cycle(capacityWith(t, rest), w.Snapshot(), w.Now)
		if got := len(p.Claims) > 0; got != want {
			t.Errorf("with %q it is %t that room is taken, want %t:\n%s", rest, got, want, p)
		}
	}
}

// TestDeclaredResourcesCount: what no queue declares, such as pods and here processors, has
// no say in who may reclaim, and none in whose turn it is.
func TestDeclaredResourcesCount(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n cpu=64 gpu=8", "queue a deserved.gpu=6", "queue b deserved.gpu=2",
		"group b min=1 queue=b", "pods b w 8 cpu=2 gpu=1",
		"cycle", "settle 10m",
		"group a min=2 queue=a", "pods a w 2 cpu=3 gpu=1",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	pipe := capacityWith(t, "")
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	if len(p.Claims) != 1 || p.Claims[0].Name != "a" || len(p.Claims[0].Evictions) != 2 {
		t.Errorf("two pods of b are to go for a:\n%s", p)
	}
	// The queue that holds the smaller part of its GPUs is served first, whatever its name.
	w = schedtest.NewWorld()
	for _, line := range []string{
		"node n cpu=64 gpu=8", "queue a deserved.gpu=4", "queue b deserved.gpu=4",
		"group a min=1 queue=a", "pods a w 3 gpu=1", "group b min=1 queue=b", "pods b w 1 gpu=1",
		"cycle", "settle 10m",
		"group late-a min=4 queue=a", "pods late-a w 4 gpu=1", "group late-b min=4 queue=b", "pods late-b w 4 gpu=1",
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); len(p.Placements) != 1 || p.Placements[0].Name != "late-b" {
		t.Errorf("the gang of b is to be placed:\n%s", p)
	}
}

// TestQueuesThatDeclareNothing: the queue that holds less for its weight is served first,
// whatever its name.
func TestQueuesThatDeclareNothing(t *testing.T) {
	for weight, want := range map[string]string{"1": "late-b", "4": "late-a"} {
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n cpu=64 gpu=8", "queue a cap.gpu=8 weight=" + weight, "queue b cap.gpu=8 weight=1",
			"group a min=1 queue=a", "pods a w 3 gpu=1", "group b min=1 queue=b", "pods b w 1 gpu=1",
			"cycle", "settle 10m",
			"group late-a min=4 queue=a", "pods late-a w 4 gpu=1", "group late-b min=4 queue=b", "pods late-b w 4 gpu=1",
		} {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		if p := scheduler.Cycle(capacityWith(t, ""), w.Snapshot(), w.Now); len(p.Placements) != 1 || p.Placements[0].Name != want {
			t.Errorf("with weight %s of queue a %s is to be placed:\n%s", weight, want, p)
		}
	}
}

// TestFlatQueues: without a hierarchy what is said of the queue above has no effect.
func TestFlatQueues(t *testing.T) {
	for rest, want := range map[string]int{
		"": 0, ", enableHierarchy: true": 0, ", arguments: {enableHierarchy: true}": 0,
		", enableHierarchy: false": 1, ", arguments: {enableHierarchy: false}": 1,
	} {
		w := schedtest.NewWorld()
		for _, line := range []string{"node n cpu=64 gpu=8", "queue t0 cap.gpu=2", "queue a parent=t0", "group g min=3 queue=a", "pods g w 3 gpu=1"} {
			if _, err := w.Do(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
		if p := scheduler.Cycle(capacityWith(t, rest), w.Snapshot(), w.Now); len(p.Placements) != want {
			t.Errorf("with %q %d gangs are placed, want %d:\n%s", rest, len(p.Placements), want, p)
		}
	}
}

// TestPiecesTooBigForWhatIsDeserved: what a queue holds beyond what it deserves comes in
// pieces of which the last reaches below it. It goes too, down to what is guaranteed, and
// only where queues declare what they deserve.
func TestPiecesTooBigForWhatIsDeserved(t *testing.T) {
	for _, c := range []struct {
		name, queue, asks string
		pipe              framework.Pipeline
		gone              int
	}{
		{"declared", "queue a deserved.gpu=16", "pods r w 2 cpu=1 gpu=7", capacityWith(t, ""), 2},
		{"guaranteed", "queue a deserved.gpu=16 guarantee.gpu=15", "pods r w 2 cpu=1 gpu=7", capacityWith(t, ""), 0},
		{"by weight", "queue a weight=1", "pods r w 2 cpu=1 gpu=7", schedtest.Pipeline(), 0},
		{"enough without", "queue a deserved.gpu=16", "pods r w 1 cpu=1 gpu=7", capacityWith(t, ""), 1},
	} {
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n1 cpu=64 gpu=16", "node n2 cpu=64 gpu=16", c.queue, strings.Replace(strings.Replace(c.queue, "queue a", "queue b", 1), " guarantee.gpu=15", "", 1),
			"group g0 min=1 queue=a", "pods g0 w 1 cpu=1 gpu=7", "group g1 min=1 queue=a", "pods g1 w 1 cpu=1 gpu=7",
			"group g2 min=1 queue=a", "pods g2 w 1 cpu=1 gpu=7", "group g3 min=1 queue=a", "pods g3 w 1 cpu=1 gpu=7",
			"cycle", "settle 10m",
			"group r min=" + c.asks[len("pods r w "):][:1] + " queue=b", c.asks,
		} {
			if line == "cycle" {
				w.Apply(scheduler.Cycle(c.pipe, w.Snapshot(), w.Now))
			} else if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		p := scheduler.Cycle(c.pipe, w.Snapshot(), w.Now)
		gone := 0
		for _, claim := range p.Claims {
			gone += len(claim.Evictions)
		}
		if gone != c.gone {
			t.Errorf("%s: %d pods go, want %d:\n%s", c.name, gone, c.gone, p)
		}
		w.Apply(p)
		if err := comesToRest(c.pipe, w); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
