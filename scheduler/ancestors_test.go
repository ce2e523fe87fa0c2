package scheduler_test

import (
	"fmt"
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

// TestGuaranteesStay: what a queue is guaranteed is not taken with what it has too much of,
// whether the claimant needs it or not.
func TestGuaranteesStay(t *testing.T) {
	for name, c := range map[string]struct {
		b, holds, asks string
		gone           int
	}{
		"needed":                {"queue b deserved.gpu=4 deserved.cpu=32", "pods g w 1 gpu=7 cpu=30", "pods r w 1 gpu=2 cpu=1", 0},
		"not needed":            {"queue b deserved.gpu=4", "pods g w 1 gpu=5 cpu=32", "pods r w 1 gpu=4", 0},
		"more than what it has": {"queue b deserved.gpu=4 deserved.cpu=32", "pods g w 2 gpu=4 cpu=32", "pods r w 1 gpu=2 cpu=1", 1},
	} {
		w := schedtest.NewWorld()
		pipe := capacityWith(t, "")
		for _, line := range []string{
			"node n cpu=64 gpu=8", "queue a deserved.gpu=4 deserved.cpu=32 guarantee.cpu=32", c.b,
			"group g min=1 queue=a", c.holds, "cycle", "settle 10m", "group r min=1 queue=b", c.asks,
		} {
			if line == "cycle" {
				w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
			} else if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		p, gone := scheduler.Cycle(pipe, w.Snapshot(), w.Now), 0
		for _, claim := range p.Claims {
			gone += len(claim.Evictions)
		}
		if gone != c.gone {
			t.Errorf("%s: %d pods go, want %d:\n%s", name, gone, c.gone, p)
		}
	}
}

// TestBigPiecesOnlyAfterSmallOnes: a gang that comes after as many as are tried in vain in
// one cycle takes no big piece where small ones would do.
func TestBigPiecesOnlyAfterSmallOnes(t *testing.T) {
	for _, others := range []int{30, 31, 40} {
		w, pipe := schedtest.NewWorld(), capacityWith(t, "")
		do := func(format string, a ...any) {
			if _, err := w.Do(fmt.Sprintf(format, a...)); err != nil {
				t.Fatal(err)
			}
		}
		do("node n cpu=64 gpu=16")
		do("queue a deserved.gpu=8")
		do("queue b deserved.gpu=8 deserved.cpu=100")
		for i := range 6 {
			do("group s%d min=1 queue=a", i)
			do("pods s%d w 1 cpu=1 gpu=1", i)
		}
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
		do("settle 10h")
		do("group big min=1 queue=a")
		do("pods big w 1 gpu=10")
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
		do("settle 5m")
		do("group b0 min=1 queue=b priority=9")
		do("pods b0 w 1 gpu=1 select.x=y")
		for i := range others {
			do("group c%d min=1 queue=b priority=5", i)
			do("pods c%d w 1 cpu=%d select.x=y", i, i+1)
		}
		do("group x min=1 queue=b priority=1")
		do("pods x w 1 gpu=2")
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		for _, c := range p.Claims {
			for _, e := range c.Evictions {
				if e.Name == "big-w-0" {
					t.Errorf("with %d others that find no room 10 GPUs go for %s", others, c.Name)
				}
			}
		}
	}
}

// TestWhoHoldsSomethingKeepsNobodyFromATry: gangs that could give up something of their own
// are tried apart from all others.
func TestWhoHoldsSomethingKeepsNobodyFromATry(t *testing.T) {
	for _, others := range []int{0, 31, 32, 40} {
		w, pipe := schedtest.NewWorld(), schedtest.Pipeline()
		do := func(format string, a ...any) {
			if _, err := w.Do(fmt.Sprintf(format, a...)); err != nil {
				t.Fatal(err)
			}
		}
		do("node n0 cpu=8 gpu=2")
		do("node n1 cpu=100")
		do("group e min=1")
		do("pods e w 2 gpu=1")
		for i := range others {
			do("group p%d min=1", i)
			do("pods p%d w 1 cpu=1", i)
		}
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
		do("settle 10m")
		for i := range others {
			w.Gang(fmt.Sprintf("p%d", i)).MinMember = 2
			do("pods p%d x 1 gpu=%d", i, 3+i)
		}
		do("group z min=1")
		do("pods z w 1 gpu=1")
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		if len(p.Claims) != 1 || p.Claims[0].Name != "z" || len(p.Claims[0].Evictions) != 1 {
			t.Errorf("beside %d gangs that lack something:\n%s", others, p)
		}
	}
}
