package tasktopology_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/tasktopology"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func cpus(n int64) snapshot.ClassSpec {
	return snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: n})}
}

// world has nodes n0, n1 and so on with so many processors.
func world(cpu ...int64) *schedtest.World {
	w := schedtest.NewWorld()
	for i, n := range cpu {
		w.SetNode(schedtest.Real(fmt.Sprintf("n%d", i), resource.Quantity{Name: "cpu", Amount: n}, resource.Quantity{Name: "pods", Amount: 99}))
	}
	return w
}

func cycle(w *schedtest.World) plan.Plan {
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins, tasktopology.Plugin{Weight: 1})
	return scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
}

// byNode tells which tasks are on each node, like "n0=ps,worker".
func byNode(w *schedtest.World, p plan.Plan) string {
	w.Apply(p)
	on := map[string][]string{}
	for _, g := range w.Gangs {
		for _, pod := range g.Pods {
			if pod.Node != "" {
				on[pod.Node] = append(on[pod.Node], pod.Task)
			}
		}
	}
	var out []string
	for n, tasks := range on {
		slices.Sort(tasks)
		out = append(out, n+"="+strings.Join(tasks, ","))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestPodsGoWhereTheirMatesAre has a row for each kind of wish.
func TestPodsGoWhereTheirMatesAre(t *testing.T) {
	pods := func(g *schedtest.Gang, ps, workers int) {
		g.AddPods("ps", ps, cpus(1))
		g.AddPods("worker", workers, cpus(2))
	}
	for name, c := range map[string]struct {
		nodes       []int64
		ps, workers int
		tasks       *snapshot.TaskTopology
		want        string
	}{
		"nothing is wished":                {[]int64{8, 8, 8}, 2, 2, nil, "n0=ps,ps,worker,worker"},
		"servers apart, each with workers": {[]int64{8, 8, 8}, 2, 4, &snapshot.TaskTopology{Together: [][]string{{"ps", "worker"}}, Apart: [][]string{{"ps"}}}, "n0=ps,worker,worker n1=ps,worker,worker"},
		"workers apart":                    {[]int64{8, 8, 8}, 0, 3, &snapshot.TaskTopology{Apart: [][]string{{"worker"}}}, "n0=worker n1=worker n2=worker"},
		"workers together": {
			[]int64{2, 8, 3}, 0, 3, &snapshot.TaskTopology{Together: [][]string{{"worker"}}}, "n1=worker,worker,worker",
		}, // the tightest nodes are filled first without the wish
		"servers away from workers": {[]int64{8, 8}, 2, 2, &snapshot.TaskTopology{Apart: [][]string{{"ps", "worker"}}}, "n0=ps,ps n1=worker,worker"},
		"the order of tasks":        {[]int64{8, 8}, 2, 2, &snapshot.TaskTopology{Apart: [][]string{{"ps", "worker"}}, Order: []string{"worker", "ps"}}, "n0=worker,worker n1=ps,ps"},
		"no room for the wish":      {[]int64{4}, 0, 2, &snapshot.TaskTopology{Apart: [][]string{{"worker"}}}, "n0=worker,worker"},
		"tasks that do not exist":   {[]int64{8, 8}, 1, 1, &snapshot.TaskTopology{Together: [][]string{{"nobody", "else"}}}, "n0=ps,worker"},
	} {
		w := world(c.nodes...)
		g := w.AddGang("g", int64(c.ps+c.workers))
		g.Tasks = c.tasks
		pods(g, c.ps, c.workers)
		if got := byNode(w, cycle(w)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// TestLaterPodsJoinTheirMates: what runs counts, for a gang that grows.
func TestLaterPodsJoinTheirMates(t *testing.T) {
	w := world(8, 4)
	g := w.AddGang("g", 1)
	g.Tasks = &snapshot.TaskTopology{Together: [][]string{{"ps", "worker"}}}
	g.AddPods("ps", 1, cpus(1))[0].Node = "n0"
	g.Pods[0].Phase = snapshot.PodRunning
	g.AddPods("worker", 2, cpus(2))
	if got := byNode(w, cycle(w)); got != "n0=ps,worker,worker" {
		t.Errorf("got %s", got)
	}
}

// TestAWishNeverCostsAPlace compares random gangs with and without a wish: those
// that are placed without are with it, every pod once and no node beyond what it
// has, and the answer is the same each time.
func TestAWishNeverCostsAPlace(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // a test that can be repeated
		var nodes []int64
		for range 1 + r.IntN(5) {
			nodes = append(nodes, 1+r.Int64N(8))
		}
		build := func(with bool) *schedtest.World {
			r := rand.New(rand.NewPCG(seed, 8)) //nolint:gosec // a test that can be repeated
			w := world(nodes...)
			for i := range 3 {
				size := 0
				g := w.AddGang(fmt.Sprintf("g%d", i), 0)
				tasks := &snapshot.TaskTopology{}
				for _, task := range []string{"a", "b", "c"} {
					n := r.IntN(4)
					size += n
					g.AddPods(task, n, cpus(1+r.Int64N(3)))
					set := [][]string{{task}, {task, "a"}, {task, "b", "c"}}[r.IntN(3)]
					if r.IntN(2) == 0 {
						tasks.Together = append(tasks.Together, set)
					} else {
						tasks.Apart = append(tasks.Apart, set)
					}
				}
				g.MinMember = int64(size)
				if with {
					g.Tasks = tasks
				}
			}
			w.Gangs = slices.DeleteFunc(w.Gangs, func(g *schedtest.Gang) bool { return len(g.Pods) == 0 })
			w.Gangs = w.Gangs[:min(len(w.Gangs), 1)] // what one takes is the other's loss
			return w
		}
		plain, wished := cycle(build(false)), cycle(build(true))
		if len(plain.Placements) != len(wished.Placements) {
			t.Fatalf("seed %d: without\n%s\nwith\n%s", seed, plain, wished)
		}
		if again := cycle(build(true)); !reflect.DeepEqual(again, wished) {
			t.Fatalf("seed %d: first\n%s\nthen\n%s", seed, wished, again)
		}
		w := build(true)
		w.Apply(wished)
		used, seen := map[string]int64{}, map[string]bool{}
		for _, pl := range wished.Placements {
			for _, b := range pl.Binds {
				if seen[b.UID] {
					t.Fatalf("seed %d: %s is placed twice", seed, b.Name)
				}
				seen[b.UID] = true
			}
		}
		for _, g := range w.Gangs {
			for _, p := range g.Pods {
				used[p.Node] += p.Needs.Requests.Get("cpu")
			}
		}
		for i, cpu := range nodes {
			if n := fmt.Sprintf("n%d", i); used[n] > cpu {
				t.Fatalf("seed %d: node %s has %d and holds %d", seed, n, cpu, used[n])
			}
		}
	}
}
