package networktopology_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/networktopology"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func cpus(n int64) snapshot.ClassSpec {
	return snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: n})}
}

// world has racks r0, r1 and so on of two nodes with 8 processors, in one block, of
// which as many are in use as busy says, by node.
func world(t *testing.T, busy ...int64) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	block := snapshot.HyperNodeSpec{Name: "block", Tier: 2}
	for i, n := range busy {
		name, rack := fmt.Sprintf("n%d", i), fmt.Sprintf("r%d", i/2)
		w.SetNode(schedtest.Real(name, resource.Quantity{Name: "cpu", Amount: 8}, resource.Quantity{Name: "pods", Amount: 99}))
		if i%2 == 0 {
			w.HyperNodes = append(w.HyperNodes, snapshot.HyperNodeSpec{Name: rack, Tier: 1})
			block.Members = append(block.Members, snapshot.Member{HyperNode: true, Exact: rack})
		}
		h := &w.HyperNodes[len(w.HyperNodes)-1]
		h.Members = append(h.Members, snapshot.Member{Exact: name})
		if n > 0 {
			for _, p := range w.AddGang("on-"+name, 1).AddPods("w", 1, cpus(n)) {
				p.Node, p.Phase = name, snapshot.PodRunning
			}
		}
	}
	w.HyperNodes = append(w.HyperNodes, block)
	return w
}

func cycle(w *schedtest.World, p networktopology.Plugin) plan.Plan {
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins[:len(pipeline.Plugins):len(pipeline.Plugins)], nil)
	copy(pipeline.Plugins[1:], pipeline.Plugins)
	pipeline.Plugins[0] = p
	return scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
}

var plugin = networktopology.Plugin{Weight: 1, Resources: []networktopology.Resource{{Name: "cpu", Weight: 1}}, NormalPods: true, Fading: 800}

func nodes(p plan.Plan, gang string) (out []string) {
	for _, pl := range p.Placements {
		if pl.Name == gang {
			for _, b := range pl.Binds {
				out = append(out, b.Node)
			}
		}
	}
	return out
}

// TestGangsFillRacks: of two racks that both take a gang, the one that is fuller as a
// whole takes it, although the gang leaves less on one node of the other.
func TestGangsFillRacks(t *testing.T) {
	for _, c := range []struct {
		plugin networktopology.Plugin
		want   string
	}{{plugin, "[n3 n2]"}, {networktopology.Plugin{}, "[n0 n0]"}} {
		w := world(t, 4, 0, 3, 5, 0, 0)
		g := w.AddGang("g", 2)
		g.Topology = &snapshot.Topology{Hard: true, Tier: 1}
		g.AddPods("w", 2, cpus(2))
		if got := fmt.Sprint(nodes(cycle(w, c.plugin), "g")); got != c.want {
			t.Errorf("%+v: %s, want %s", c.plugin, got, c.want)
		}
	}
}

// TestNormalPodsFillRacks: a pod of no demand goes to the fuller rack, as long as
// the arguments say so.
func TestNormalPodsFillRacks(t *testing.T) {
	off := plugin
	off.NormalPods = false
	for _, c := range []struct {
		plugin networktopology.Plugin
		want   string
	}{{plugin, "[n3]"}, {off, "[n0]"}} {
		w := world(t, 5, 0, 4, 4, 0, 0)
		w.AddGang("g", 1).AddPods("w", 1, cpus(3))
		got := fmt.Sprint(nodes(cycle(w, c.plugin), "g"))
		if c.want == "[n3]" && got == "[n2]" {
			got = "[n3]" // the two are alike
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s", c.plugin, got, c.want)
		}
	}
}

// TestSoGangsKeepARackOfTheirOwn is what it is for: pods without a demand leave whole
// racks to the gang that needs one.
func TestSoGangsKeepARackOfTheirOwn(t *testing.T) {
	w := world(t, 1, 0, 0, 0, 0, 0)
	for i := range 6 {
		w.AddGang(fmt.Sprintf("p%d", i), 1).AddPods("w", 1, cpus(2))
	}
	g := w.AddGang("g", 4)
	g.Topology = &snapshot.Topology{Hard: true, Tier: 1}
	g.AddPods("w", 4, cpus(4))
	p := cycle(w, plugin)
	if got := nodes(p, "g"); len(got) != 4 {
		t.Errorf("the gang has no rack of its own:\n%s", p)
	}
	for i := range 6 {
		for _, n := range nodes(p, fmt.Sprintf("p%d", i)) {
			if n != "n0" && n != "n1" {
				t.Errorf("pod %d is on %s, and the first rack had room:\n%s", i, n, p)
			}
		}
	}
}

// TestNumbersOfTiersAreNoWork: a tier may have any number, and whoever writes it does not
// stop the cycle by it.
func TestNumbersOfTiersAreNoWork(t *testing.T) {
	for by, want := range map[int64]int64{1000: 1000, 999: 0, 800: 0, 0: 0} {
		if got := networktopology.Fade(by, math.MaxInt64); got != want {
			t.Errorf("by %d: %d, want %d", by, got, want)
		}
	}
	if got := networktopology.Fade(500, 3); got != 250 {
		t.Errorf("the third tier counts %d, want 250", got)
	}
}
