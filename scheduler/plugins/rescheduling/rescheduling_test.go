package rescheduling_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/preempt"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/rescheduling"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// lowUse is below 20 % of the processors, and above 50 %.
const lowUse = "strategies: [{name: offlineOnly}, {name: lowNodeUtilization, params: {thresholds: {cpu: 20}, targetThresholds: {cpu: 50}}}]"

func pipeline(t *testing.T, arguments string) framework.Pipeline {
	t.Helper()
	c, warnings, err := config.Parse([]byte(`
actions: "enqueue, allocate, shuffle"
tiers:
- plugins: [{name: priority}, {name: gang}, {name: proportion}]
- plugins: [{name: rescheduling, arguments: {` + arguments + `}}]
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return c.Pipeline()
}

// world has gangs of 4, 3 and 2 processors on the first of two nodes of ten.
func world(t *testing.T, options string) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	for _, line := range []string{
		"node n1 cpu=10 mem=10", "node n2 cpu=10 mem=10",
		"group a min=2", "pods a w 2 cpu=2 " + options,
		"group b min=1 priority=1", "pods b w 1 cpu=3 " + options,
		"group c min=1", "pods c w 1 cpu=2 " + options,
	} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	for _, p := range w.Pods("") {
		p.Node, p.Attempt, p.Size = "n1", p.Name[:1], 1
	}
	for i, p := range w.Gang("a").Pods {
		p.Size, p.Rank = 2, int64(i)
	}
	w.Settle(10 * time.Minute)
	return w
}

// moves tells who is moved where, and fails where somebody goes otherwise.
func moves(t *testing.T, p plan.Plan) string {
	t.Helper()
	var out []string
	if len(p.Releases) > 0 {
		t.Errorf("somebody is sent away without a place:\n%s", p)
	}
	for _, c := range p.Claims {
		var to []string
		for _, n := range c.Nomination.Pods {
			to = append(to, n.Node)
		}
		if !c.Moves() || len(c.Evictions) != len(to) || c.Action != "rescheduling" {
			t.Errorf("%d pods go and %d places are kept:\n%s", len(c.Evictions), len(to), p)
		}
		slices.Sort(to)
		out = append(out, c.Name+"="+strings.Join(to, "+"))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestWhoIsMoved: whole gangs leave an overused node for an underused one until it is no
// longer overused, and nobody who has to stay or has no better place.
func TestWhoIsMoved(t *testing.T) {
	const movable = "movable"
	loads := func(n1, n2 int64, age time.Duration) func(*schedtest.World) {
		return func(w *schedtest.World) {
			at := w.Now.Add(-age).UnixNano()
			w.Loads = []snapshot.Load{{Node: "n1", CPU: n1, At: at}, {Node: "n2", CPU: n2, At: at}}
		}
	}
	for _, c := range []struct {
		name, options, arguments string
		change                   func(*schedtest.World)
		want                     string
	}{
		// 90 % are used: without c 70 % are, and without b then 40 %; a need not go.
		{name: "the least lost work first", options: movable, want: "b=n2 c=n2"},
		{name: "owners that say nothing", options: ""},
		{name: "protected", options: "movable protected=test"},
		{name: "cooldown", options: "movable cooldown=1h"},
		{name: "a budget", options: "movable budget=default/none", change: func(w *schedtest.World) { w.Budgets = []snapshot.Budget{{Name: "default/none"}} }},
		{name: "just started", options: movable, change: func(w *schedtest.World) { w.Now = w.Now.Add(-10*time.Minute + 4*time.Minute) }},
		{name: "another queue", options: movable, arguments: "queueSelector: [other]"},
		{name: "its queue", options: movable, arguments: "queueSelector: [other, default]", want: "b=n2 c=n2"},
		{name: "labels that they do not have", options: movable, arguments: "labelSelector.a: b"},
		{name: "labels of one", options: movable, arguments: "labelSelector: {a: b}", change: func(w *schedtest.World) { w.Pods("c")[0].Picked = true }, want: "c=n2"},
		{name: "labels of a part", options: movable, arguments: "labelSelector: {a: b}", change: func(w *schedtest.World) { w.Pods("a")[0].Picked = true }},
		{name: "no node to go to", options: movable, change: func(w *schedtest.World) { w.Nodes[1].Unschedulable = true }},
		{name: "a virtual node", options: movable, change: func(w *schedtest.World) { w.Nodes[1].Virtual = true }},
		{name: "measured: nobody is busy", options: movable, change: loads(400, 100, time.Minute)},
		{name: "measured: both are busy", options: movable, change: loads(900, 300, time.Minute)},
		{name: "measured long ago", options: movable, change: loads(400, 100, 6*time.Minute), want: "b=n2 c=n2"},
		{name: "measured, and that is long enough", options: movable, arguments: "metricsPeriod: 10m", change: loads(400, 100, 6*time.Minute)},
		{name: "idle, and full of reserved room", options: movable, change: func(w *schedtest.World) {
			loads(900, 0, time.Minute)(w)
			if _, err := w.Do("group d min=1"); err != nil {
				panic(err)
			}
			if _, err := w.Do("pods d w 1 cpu=9"); err != nil {
				panic(err)
			}
			p := w.Gang("d").Pods[0]
			p.Node, p.Attempt, p.Size, p.Phase, p.StartedAt = "n2", "d", 1, snapshot.PodRunning, w.Now.UnixNano()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := world(t, c.options)
			if c.change != nil {
				c.change(w)
			}
			p := scheduler.Cycle(pipeline(t, strings.TrimSuffix(lowUse+", "+c.arguments, ", ")), w.Snapshot(), w.Now)
			if got := moves(t, p); got != c.want {
				t.Errorf("%q is moved, want %q:\n%s", got, c.want, p)
			}
		})
	}
}

// TestRoundsAndRest: between two rounds is the interval, those who were moved are placed
// where room is kept, and then all is at rest.
func TestRoundsAndRest(t *testing.T) {
	w := world(t, "movable")
	w.Rounds = map[string]int64{"rescheduling": w.Now.Add(-59 * time.Second).UnixNano()}
	pipe := pipeline(t, "interval: 1m, "+lowUse)
	if got := moves(t, scheduler.Cycle(pipe, w.Snapshot(), w.Now)); got != "" {
		t.Fatalf("%s before the interval is over", got)
	}
	w.Now = w.Now.Add(time.Second)
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	if moves(t, p) == "" {
		t.Fatalf("nobody is moved when the interval is over:\n%s", p)
	}
	w.Apply(p)
	for i := range 6 {
		w.Settle(10 * time.Minute)
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		if got := moves(t, p); got != "" {
			t.Errorf("round %d: %s once more:\n%s", i, got, p)
		}
		w.Apply(p)
	}
	used := map[string]int{}
	for _, p := range w.Pods("") {
		used[p.Node+" "+p.Name[:1]]++
	}
	if got := fmt.Sprint(used); got != "map[n1 a:2 n2 b:1 n2 c:1]" {
		t.Errorf("in the end the pods are on %s", got)
	}
}

// TestPreemptMovesNobody: it sends away who has to go, and this is not that.
func TestPreemptMovesNobody(t *testing.T) {
	w := world(t, "movable")
	pipe := pipeline(t, lowUse)
	for i, a := range pipe.Actions {
		if a.Name() == "shuffle" {
			pipe.Actions[i] = preempt.Action{}
		}
	}
	if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); len(p.Claims)+len(p.Rounds) > 0 {
		t.Errorf("somebody is moved:\n%s", p)
	}
}

// TestThoseWhoUseMoreThanTheyAskFor: a pod counts with its part of what was measured where
// it is, by what pods ask for, and goes only where there is as much below the threshold.
func TestThoseWhoUseMoreThanTheyAskFor(t *testing.T) {
	for _, c := range []struct {
		n1, n2 int64
		want   string
	}{
		// 7 of 10 are asked for on n1, and 9 are used: 3.9 of them are those of b, 2.6 of c.
		{n1: 900, n2: 100, want: "b=n2"}, // with 4.9 of 5
		{n1: 900, n2: 150, want: "c=n2"}, // b would make it 5.4
		{n1: 600, n2: 190, want: "b=n2"}, // with the three that it asks for, though it uses less
	} {
		w := world(t, "movable")
		w.Gang("a").Pods[0].Movable = false
		w.Loads = []snapshot.Load{{Node: "n1", CPU: c.n1, At: w.Now.UnixNano()}, {Node: "n2", CPU: c.n2, At: w.Now.UnixNano()}}
		for _, p := range w.Pods("b") { // it is the first that is looked at
			p.StartedAt = w.Now.Add(-6 * time.Minute).UnixNano()
		}
		for _, p := range w.Pods("a") {
			p.Needs.Requests = resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000}, resource.Quantity{Name: "pods", Amount: 1})
		}
		if got := moves(t, scheduler.Cycle(pipeline(t, lowUse), w.Snapshot(), w.Now)); got != c.want {
			t.Errorf("with %d and %d thousandths in use %q is moved, want %q", c.n1, c.n2, got, c.want)
		}
	}
}

// TestAllHaveTheirTurn: of many that would be moved each is looked at in some round, though
// none of them can be.
func TestAllHaveTheirTurn(t *testing.T) {
	w := schedtest.NewWorld()
	lines := []string{"node n1 cpu=200 mem=10", "node n2 cpu=10 mem=10"}
	const gangs = 150
	for i := range gangs {
		lines = append(lines, fmt.Sprintf("group g%03d min=1", i), fmt.Sprintf("pods g%03d w 1 cpu=1 movable select.at=n1", i))
	}
	for _, line := range lines {
		if _, err := w.Do(line); err != nil {
			t.Fatal(err)
		}
	}
	w.Nodes[0].Labels = map[string]string{"at": "n1"}
	for _, p := range w.Pods("") {
		p.Node, p.Attempt, p.Size = "n1", p.Name, 1
	}
	w.Settle(10 * time.Minute)
	pipe := pipeline(t, "interval: 1m, "+lowUse)
	for round := range 8 {
		free := fmt.Sprintf("g%03d", gangs-1-round*7)
		next := w.Clone()
		for _, p := range next.Pods(free) { // it alone could go
			p.Needs.NodeSelector = nil
		}
		for range 6 {
			p := scheduler.Cycle(pipe, next.Snapshot(), next.Now)
			if moves(t, p) != "" {
				free = ""
				break
			}
			next.Apply(p)
			next.Now = next.Now.Add(time.Minute)
		}
		if free != "" {
			t.Errorf("gang %s did not have its turn in 6 rounds", free)
		}
	}
}

// TestLowPriorityFirst: the order in which gangs are moved.
func TestLowPriorityFirst(t *testing.T) {
	for list, want := range map[string]string{"": "b=n2", ", {name: lowPriorityFirst}": "a=n2+n2"} {
		w := world(t, "movable")
		for _, p := range w.Gang("b").Pods { // it has lost least
			p.StartedAt = w.Now.Add(-6 * time.Minute).UnixNano()
		}
		w.Gang("c").Pods[0].Movable = false
		text := "strategies: [{name: lowNodeUtilization, params: {thresholds: {cpu: 20}, targetThresholds: {cpu: 60}}}" + list + "]"
		p := scheduler.Cycle(pipeline(t, text), w.Snapshot(), w.Now)
		if got := moves(t, p); got != want {
			t.Errorf("with%q %q is moved, want %q:\n%s", list, got, want, p)
		}
	}
}

// What Volcano's strategy may have besides: a place is always looked for, and gangs of a
// priority from that of a class on stay.
func TestOtherParameters(t *testing.T) {
	for param, want := range map[string]string{"nodeFit: true": "c=n2", "thresholdPriorityClassName: high": "b=n2"} {
		arguments := "strategies: [{name: lowNodeUtilization, params: {thresholds: {cpu: 20}, targetThresholds: {cpu: 70}, " + param + "}}]"
		w := world(t, "movable")
		w.Pods("b")[0].Picked = true // the only one below the class
		w.Pods("c")[0].StartedAt += int64(time.Minute)
		if got := moves(t, scheduler.Cycle(pipeline(t, arguments), w.Snapshot(), w.Now)); got != want {
			t.Errorf("with %s %q is moved, want %q", param, got, want)
		}
	}
}

func TestMistakesInStrategies(t *testing.T) {
	for list, want := range map[string]string{
		"[{name: most}]": `must be lowNodeUtilization, lowPriorityFirst or offlineOnly`,
		"[{params: {}}]": `must be lowNodeUtilization`, "[a]": "must have a name", "a": "must be a list",
		"[{name: lowNodeUtilization, params: {numberOfNodes: 3}}]":                                   "params.numberOfNodes is not known",
		"[{name: lowNodeUtilization, params: {nodeFit: some}}]":                                      "params.nodeFit must be true or false",
		"[{name: lowNodeUtilization, params: {thresholdPriorityClassName: 3}}]":                      "params.thresholdPriorityClassName must be the name",
		"[{name: lowNodeUtilization, params: {thresholds: {cpu: 101}}}]":                             "params.thresholds has 101 for cpu, must be from 0 to 100",
		"[{name: lowNodeUtilization, params: {thresholds: {cpu: x}}}]":                               "has x for cpu",
		"[{name: lowNodeUtilization, params: {thresholds: [cpu]}}]":                                  "must be percentages",
		"[{name: lowNodeUtilization, params: [a]}]":                                                  "params must be thresholds",
		"[{name: lowNodeUtilization, params: {thresholds: {cpu: 60}, targetThresholds: {cpu: 50}}}]": "params.thresholds.cpu must not be above",
	} {
		_, _, err := config.Parse([]byte("actions: shuffle\ntiers: [{plugins: [{name: rescheduling, arguments: {strategies: " + list + "}}]}]\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "strategies") {
			t.Errorf("%s: %v, want %q", list, err, want)
		}
	}
	low := rescheduling.LowUse()
	if got := fmt.Sprint(low.Under, low.Over); got != "map[cpu:200 memory:200 pods:200] map[cpu:500 memory:500 pods:500]" {
		t.Errorf("where nothing is said: %s", got)
	}
}

// TestOneMoveIsEnoughForTwoSchedulers: a scheduler ends while it moves a gang, and the next
// knows of no round. It brings the move to its end, and moves nobody else for what that one
// does already.
func TestOneMoveIsEnoughForTwoSchedulers(t *testing.T) {
	pipe := pipeline(t, "interval: 5m, strategies: [{name: lowNodeUtilization, params: {thresholds: {cpu: 20}, targetThresholds: {cpu: 60}}}]")
	for name, c := range map[string]struct {
		then func(w *schedtest.World, told *snapshot.Pod)
		want string // who is still to go
	}{
		"all were told, and none has gone": {then: func(*schedtest.World, *snapshot.Pod) {}},
		"one was told":                     {then: func(_ *schedtest.World, other *snapshot.Pod) { other.Terminating = false }, want: "b-w-1"},
		"one has gone and is made anew": {then: func(w *schedtest.World, other *snapshot.Pod) {
			other.Terminating = false
			if _, err := w.Do("restart b-w-0"); err != nil {
				t.Fatal(err)
			}
		}, want: "b-w-1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := schedtest.NewWorld()
			for _, line := range []string{
				"node n1 cpu=4", "node n2 cpu=4",
				"group a min=2", "pods a w 2 cpu=1 movable", "group b min=2", "pods b w 2 cpu=1 movable",
			} {
				if _, err := w.Do(line); err != nil {
					t.Fatalf("%s: %v", line, err)
				}
			}
			for i, p := range w.Pods("") {
				p.Node, p.Attempt, p.Size, p.Rank = "n1", p.Name[:1], 2, int64(i%2)
			}
			w.Settle(10 * time.Minute)
			p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			if got := moves(t, p); got != "b=n2+n2" {
				t.Fatalf("moved are %s", got)
			}
			w.Apply(p)
			w.Rounds = nil
			c.then(w, &w.Gang("b").Pods[1].Pod)
			w.Now = w.Now.Add(time.Second)
			p = scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			var sent []string
			for _, claim := range p.Claims {
				for _, e := range claim.Evictions {
					sent = append(sent, e.Name)
				}
			}
			if got := strings.Join(sent, " "); got != c.want {
				t.Errorf("sent away are %q, want %q:\n%s", got, c.want, p)
			}
			for range 4 {
				w.Apply(p)
				w.Settle(time.Minute)
				p = scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			}
			w.Rounds = nil // and another when it is over
			if got := moves(t, scheduler.Cycle(pipe, w.Snapshot(), w.Now)); got != "" {
				t.Errorf("after it moved are %s", got)
			}
		})
	}
}
