package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

const consolidating = `
actions: "enqueue, allocate, backfill, consolidate, elastic, preempt, reclaim"
tiers:
- plugins: [{name: priority}, {name: gang}]
- plugins: [{name: proportion}, {name: drf}]
configurations:
- {name: consolidate, arguments: {minimumRunTime: 1m}}
`

// fragmented has two nodes of four GPUs, each with a gang of two that runs, and a gang
// that needs a whole node.
func fragmented(t *testing.T, options string) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n1 cpu=16 gpu=4", "node n2 cpu=16 gpu=4",
		"group a min=2", "pods a w 2 gpu=1 select.at=n1 " + options,
		"group b min=1", "pods b w 1 gpu=2 " + options,
		"group wide min=1", "pods wide w 1 gpu=4",
	} {
		if _, err := w.Do(strings.ReplaceAll(line, " select.at=n1", "")); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range w.Pods("") {
		if at := map[byte]string{'a': "n1", 'b': "n2"}[p.Name[0]]; at != "" {
			p.Node, p.Attempt, p.Size = at, p.Name[:1], 1
		}
	}
	w.Gang("a").Pods[0].Size, w.Gang("a").Pods[1].Size, w.Gang("a").Pods[1].Rank = 2, 2, 1
	w.Settle(10 * time.Minute)
	return w
}

// TestConsolidationMovesGangs: a gang that needs a whole node has one when another is
// moved; while the moved pods are away, and while new ones have not come, both places
// are kept from everybody else.
func TestConsolidationMovesGangs(t *testing.T) {
	pipe := pipelineOf(t, strings.Replace(consolidating, ", elastic, preempt, reclaim", "", 1))
	w := fragmented(t, "movable")
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	w.Apply(p)
	if len(p.Claims) != 2 || !p.Claims[0].Moves() || p.Claims[1].Name != "wide" {
		t.Fatalf("one gang is to be moved for the one that waits:\n%s", p)
	}
	mover := p.Claims[0].Name
	// The pods go and nobody has made new ones yet; somebody comes who would fit.
	g := w.Gang(mover)
	gone := g.Pods
	g.Pods = nil
	for _, line := range []string{"group late min=1 priority=9", "pods late w 1 gpu=2"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	p = scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	w.Apply(p)
	if len(p.Placements) != 1 || p.Placements[0].Name != "wide" {
		t.Fatalf("the gang that waited is to be placed, and nobody else:\n%s", p)
	}
	for _, p := range gone {
		w.Replace(p)
	}
	g.Pods = gone
	for range 2 { // it is let in again first
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
	}
	if placed(g) != int64(len(gone)) || placed(w.Gang("late")) != 0 {
		t.Errorf("of the gang that was moved %d of %d members are placed, of the late one %d", placed(g), len(gone), placed(w.Gang("late")))
	}
	if err := check(w); err != nil {
		t.Error(err)
	}
}

// TestConsolidationLeavesInPeace: nobody is moved who did not say so, ran too briefly,
// is covered by a budget or was moved a moment ago; nobody is moved whom there is no
// other place for, nor for one that would not fit all the same.
func TestConsolidationLeavesInPeace(t *testing.T) {
	pipe := pipelineOf(t, consolidating)
	for _, c := range []struct {
		name, options string
		change        func(w *schedtest.World)
	}{
		{name: "nobody said that it may be moved"},
		{name: "protected", options: "movable protected=test"},
		{name: "cooldown", options: "movable cooldown=1h"},
		{name: "a budget", options: "movable budget=default/none", change: func(w *schedtest.World) {
			w.Budgets = []snapshot.Budget{{Name: "default/none"}}
		}},
		{name: "just started", options: "movable", change: func(w *schedtest.World) { w.Now = w.Now.Add(-10*time.Minute + 30*time.Second) }},
		{name: "no other place", options: "movable", change: func(w *schedtest.World) { w.Nodes[0].Unschedulable, w.Nodes[1].Unschedulable = true, false }},
		{name: "moved a moment ago", options: "movable", change: func(w *schedtest.World) {
			for _, name := range []string{"a", "b"} {
				w.Gang(name).Nominated = &snapshot.Nomination{Domain: "nodes", Until: w.Now.Add(time.Minute).UnixNano()}
			}
		}},
		{name: "too wide", options: "movable", change: func(w *schedtest.World) {
			w.Gang("wide").Pods[0].Needs = snapshot.ClassSpec{Requests: resource.MakeList(amounts(1, 5)...)}
		}},
		{name: "a virtual node", options: "movable", change: func(w *schedtest.World) {
			w.Nodes[0].Virtual, w.Nodes[1].Virtual = true, true
		}},
	} {
		w := fragmented(t, c.options)
		if c.change != nil {
			c.change(w)
		}
		if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); len(p.Claims) != 0 {
			t.Errorf("%s: somebody is moved:\n%s", c.name, p)
		}
	}
}

// TestContentionWithConsolidation plays histories in which most gangs may be moved:
// all that holds without it holds with it, every gang that is moved is placed again,
// and all comes to rest.
func TestContentionWithConsolidation(t *testing.T) { contendMoving(t, pipelineOf(t, consolidating)) }

const rescheduling = `
actions: "enqueue, allocate, backfill, preempt, reclaim, shuffle"
tiers:
- plugins: [{name: priority}, {name: gang}]
- plugins:
  - {name: proportion}
  - name: rescheduling
    arguments:
      interval: 1m
      strategies: [{name: lowNodeUtilization, params: {thresholds: {nvidia.com/gpu: 50}, targetThresholds: {nvidia.com/gpu: 70}}}]
`

// TestContentionWithRescheduling is the same where gangs leave nodes that are used too much.
func TestContentionWithRescheduling(t *testing.T) { contendMoving(t, pipelineOf(t, rescheduling)) }

func contendMoving(t *testing.T, pipe framework.Pipeline) {
	t.Helper()
	moves := 0
	watched := pipe
	watched.Actions = append(slices.Clone(pipe.Actions), counter{&moves})
	for seed := range max(seeds(t)/10, 1) {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		script := crumbs(r)
		again := func(s []string) error { return play(watched, s, rand.New(rand.NewPCG(uint64(seed), 2))) }
		if err := again(script); err != nil {
			script, err = shrinkBy(script, err, again)
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
	t.Logf("%d moves", moves)
	if moves == 0 {
		t.Error("nothing was ever moved: the histories show nothing")
	}
}

// crumbs writes a random script of small gangs that come and end on a few nodes, most
// of which may be moved, with a wide one now and then.
func crumbs(r *rand.Rand) []string {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for i := range in(2, 4) {
		add("node n%d cpu=16 gpu=%d", i, in(4, 8))
	}
	add("queue q0 weight=1")
	add("queue q1 weight=1")
	gangs := 0
	for range in(12, 20) {
		for range in(1, 3) {
			size, wide := in(1, 2), r.IntN(3) == 0
			add("group g%d min=%d queue=q%d priority=%d", gangs, in(1, size), r.IntN(2), r.IntN(5)/4)
			pods := fmt.Sprintf("pods g%d w %d cpu=1 gpu=%d", gangs, size, in(1, 2))
			if wide {
				pods = fmt.Sprintf("pods g%d w 1 cpu=1 gpu=%d", gangs, in(4, 8))
				out[len(out)-1] = strings.Replace(out[len(out)-1], "min=2", "min=1", 1)
			}
			if r.IntN(4) > 0 {
				pods += " movable"
			}
			add("%s", pods)
			gangs++
		}
		for range in(0, 3) {
			add("finish g%d", r.IntN(gangs))
		}
		add("cycle")
		add("settle %dm", in(1, 20))
	}
	return out
}

// counter is an action that counts the gangs that are moved.
type counter struct{ moves *int }

func (counter) Name() string { return "counter" }

func (c counter) Run(s *framework.Session) {
	for _, claim := range s.Plan.Claims {
		if claim.Moves() {
			*c.moves++
		}
	}
}

// movedAreKept is that whoever is moved, and whoever that is for, is placed afterwards.
func movedAreKept(after *schedtest.World, p plan.Plan) error {
	moves := slices.ContainsFunc(p.Claims, plan.Claim.Moves)
	for _, c := range p.Claims {
		g := after.Gang(c.Name)
		if want := int64(len(c.Nomination.Pods)); moves && (c.Action == "consolidate" || c.Action == "rescheduling") && placed(g) < want {
			return fmt.Errorf("gang %s has %d of the %d members that a place was kept for", c.Name, placed(g), want)
		}
	}
	return nil
}

// TestFullQueueStopsNoMoves: a gang whose queue is full is like one of another queue for
// which room can be made, and is looked at first.
func TestFullQueueStopsNoMoves(t *testing.T) {
	pipe := pipelineOf(t, strings.Replace(consolidating, ", elastic, preempt, reclaim", "", 1))
	w := fragmented(t, "movable")
	for _, line := range []string{"queue full cap.gpu=1", "group first min=1 queue=full", "pods first w 1 gpu=4"} {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Gang("first").CreatedAt = w.Gang("a").CreatedAt - 1
	w.Gang("first").Priority = 1
	if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); !slices.ContainsFunc(p.Claims, func(c plan.Claim) bool { return c.Name == "wide" }) {
		t.Errorf("nobody is moved for the one that waits:\n%s", p)
	}
}
