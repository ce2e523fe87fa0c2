package numaaware_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/numaaware"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// node is a node whose NUMA nodes have 8 processors each, of which as many are free
// as cells says.
func node(name, policy string, cells ...int64) snapshot.NodeSpec {
	n := schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: int64(8 * len(cells))}, resource.Quantity{Name: "pods", Amount: 99})
	n.NUMA = &snapshot.NUMA{Policy: policy, Static: true}
	for i, free := range cells {
		n.NUMA.Cells = append(n.NUMA.Cells, snapshot.Cell{ID: int64(i), CPUs: 8, Free: free})
	}
	return n
}

// pods ask for processors for each container, with a policy.
func pods(g *schedtest.Gang, count int, policy string, cpus ...int64) {
	var sum int64
	for _, k := range cpus {
		sum += k
	}
	spec := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: sum})}
	if policy != "" {
		spec.NUMA = &snapshot.NUMAAsk{Policy: policy, CPUs: cpus}
	}
	g.AddPods("w", count, spec)
}

func cycle(w *schedtest.World) plan.Plan {
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins, numaaware.Plugin{Weight: 1})
	return scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
}

// TestPolicies has a row for what each policy takes and refuses: the processors that
// pods get by NUMA node, or why they wait.
func TestPolicies(t *testing.T) {
	const single, restricted, best = snapshot.NUMASingle, snapshot.NUMARestricted, snapshot.NUMABestEffort
	virtual := schedtest.Real("n", resource.Quantity{Name: "cpu", Amount: 8}, resource.Quantity{Name: "pods", Amount: 9})
	virtual.Virtual = true
	lax := node("n", single, 8, 8)
	lax.NUMA.Static = false
	for name, c := range map[string]struct {
		nodes  []snapshot.NodeSpec
		policy string
		count  int
		cpus   []int64
		want   string
	}{
		"no policy":                      {[]snapshot.NodeSpec{node("n", single, 8, 8)}, "", 1, []int64{4}, "n:"},
		"the fuller one that has room":   {[]snapshot.NodeSpec{node("n", single, 8, 5)}, single, 1, []int64{4}, "n:1=4"},
		"not over two":                   {[]snapshot.NodeSpec{node("n", single, 3, 3)}, single, 1, []int64{4}, "its free processors are on too many NUMA nodes for policy single-numa-node"},
		"each container on one":          {[]snapshot.NodeSpec{node("n", single, 5, 3)}, single, 1, []int64{4, 3}, "n:0=4,1=3"},
		"one after the other":            {[]snapshot.NodeSpec{node("n", single, 4, 4)}, single, 2, []int64{3}, "n:0=3 n:1=3"},
		"three do not fit two nodes":     {[]snapshot.NodeSpec{node("n", single, 5, 5)}, single, 3, []int64{3}, "2 of 3 members find a node"},
		"as few as an empty node":        {[]snapshot.NodeSpec{node("n", restricted, 4, 4)}, restricted, 1, []int64{6}, "its free processors are on too many NUMA nodes for policy restricted"},
		"two where one is too small":     {[]snapshot.NodeSpec{node("n", restricted, 8, 8)}, restricted, 1, []int64{10}, "n:0=8,1=2"},
		"as few as there are":            {[]snapshot.NodeSpec{node("n", best, 2, 3, 4)}, best, 1, []int64{6}, "n:1=2,2=4"},
		"not more than there are":        {[]snapshot.NodeSpec{node("n", best, 2, 3)}, best, 1, []int64{6}, "its free processors are on too many"},
		"the node where one is enough":   {[]snapshot.NodeSpec{node("a", best, 3, 3), node("b", best, 0, 7)}, best, 1, []int64{6}, "b:1=6"},
		"a kubelet of another policy":    {[]snapshot.NodeSpec{node("n", best, 8)}, single, 1, []int64{1}, "its topology manager has another policy than single-numa-node"},
		"a CPU manager that shares":      {[]snapshot.NodeSpec{lax}, single, 1, []int64{1}, "its CPU manager does not give whole processors"},
		"nobody tells":                   {[]snapshot.NodeSpec{schedtest.Real("n", resource.Quantity{Name: "cpu", Amount: 8}, resource.Quantity{Name: "pods", Amount: 9})}, single, 1, []int64{1}, "nobody tells of its NUMA nodes"},
		"a batch system decides, softly": {[]snapshot.NodeSpec{virtual}, best, 1, []int64{1}, "n:"},
		"a batch system decides":         {[]snapshot.NodeSpec{virtual}, single, 1, []int64{1}, "its batch system chooses NUMA nodes itself"},
	} {
		w := schedtest.NewWorld()
		for _, n := range c.nodes {
			w.SetNode(n)
		}
		pods(w.AddGang("g", int64(c.count)), c.count, c.policy, c.cpus...)
		p := cycle(w)
		var got []string
		for _, pl := range p.Placements {
			for _, b := range pl.Binds {
				got = append(got, b.Node+":"+b.Cells)
			}
		}
		for _, u := range p.Unschedulable {
			got = append(got, u.Message)
		}
		if text := strings.Join(got, " "); text != c.want && (len(p.Placements) > 0 || !strings.Contains(text, c.want)) {
			t.Errorf("%s: %s, want %s", name, text, c.want)
		}
	}
}

// TestWhatRunsCounts: processors are given once, whether the node tells so yet or not.
func TestWhatRunsCounts(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := schedtest.NewWorld()
		free := int64(8)
		if running {
			free = 5 // the kubelet has given them away
		}
		w.SetNode(node("n", snapshot.NUMASingle, free, 0))
		old := w.AddGang("old", 1)
		pods(old, 1, snapshot.NUMASingle, 3)
		old.Pods[0].Node, old.Pods[0].Cells = "n", []snapshot.CellShare{{ID: 0, CPUs: 3}}
		if running {
			old.Pods[0].Phase = snapshot.PodRunning
		}
		pods(w.AddGang("fits", 1), 1, snapshot.NUMASingle, 5)
		pods(w.AddGang("late", 1), 1, snapshot.NUMASingle, 1)
		p := cycle(w)
		if len(p.Placements) != 1 || p.Placements[0].Name != "fits" || p.Placements[0].Binds[0].Cells != "0=5" {
			t.Errorf("running %t:\n%s", running, p)
		}
	}
}

// TestNoProcessorIsGivenTwice places random gangs cycle after cycle: what pods were
// given adds up to no more than each NUMA node has, is what they asked for, and a
// pod of one NUMA node has its processors on one.
func TestNoProcessorIsGivenTwice(t *testing.T) {
	policies := []string{snapshot.NUMASingle, snapshot.NUMARestricted, snapshot.NUMABestEffort, ""}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // a test that can be repeated
		w := schedtest.NewWorld()
		for i := range 1 + r.IntN(4) {
			cells := make([]int64, 1+r.IntN(4))
			for k := range cells {
				cells[k] = 8
			}
			w.SetNode(node(fmt.Sprintf("n%d", i), policies[r.IntN(3)], cells...))
		}
		for round := range 4 {
			for i := range r.IntN(4) {
				g := w.AddGang(fmt.Sprintf("g%d-%d", round, i), 1)
				pods(g, 1+r.IntN(3), policies[r.IntN(4)], 1+r.Int64N(6), r.Int64N(4))
			}
			w.Apply(cycle(w))
			if r.IntN(2) == 0 && len(w.Gangs) > 0 {
				w.Delete(w.Gangs[r.IntN(len(w.Gangs))].Name)
			}
			used := map[string]int64{}
			for _, g := range w.Gangs {
				for _, p := range g.Pods {
					if p.Node == "" || p.Needs.NUMA == nil {
						continue
					}
					var sum int64
					for _, c := range p.Cells {
						sum += c.CPUs
						used[fmt.Sprintf("%s/%d", p.Node, c.ID)] += c.CPUs
					}
					if want := p.Needs.Requests.Get("cpu"); sum != want || p.Needs.NUMA.Policy == snapshot.NUMASingle && len(p.Cells) > 2 {
						t.Fatalf("seed %d: pod %s of %d has %+v", seed, p.Name, want, p.Cells)
					}
				}
			}
			for cell, n := range used {
				if n > 8 {
					t.Fatalf("seed %d, round %d: %d processors of %s are given", seed, round, n, cell)
				}
			}
		}
	}
}
