package drf_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/allocate"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/drf"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func cluster(cpu, gpu int64) *schedtest.World {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: "cpu", Amount: cpu}, resource.Quantity{Name: "gpu", Amount: gpu}, resource.Quantity{Name: "pods", Amount: 1000}))
	return w
}

// gang adds a gang of one pod; running ones hold their resources.
func gang(w *schedtest.World, namespace, name, queue string, cpu, gpu int64, running bool) {
	g := w.AddGang(name, 1)
	g.Namespace, g.Key, g.Queue = namespace, "podgroup/"+namespace+"/"+name, queue
	for _, p := range g.AddPods("w", 1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: cpu}, resource.Quantity{Name: "gpu", Amount: gpu})}) {
		if running {
			p.Node, p.Phase = "n", snapshot.PodRunning
		}
	}
}

func order(w *schedtest.World, p drf.Plugin) string {
	var out []string
	for _, pl := range scheduler.Cycle(framework.Pipeline{Actions: []framework.Action{allocate.Action{}}, Plugins: []framework.Plugin{p}}, w.Snapshot(), w.Now).Placements {
		out = append(out, pl.Name)
	}
	return strings.Join(out, " ")
}

// TestNamespacesShareTheQueue: team a holds half of the GPUs, team b a third of
// the cpu, so b is served first although a's gang is older.
func TestNamespacesShareTheQueue(t *testing.T) {
	w := cluster(30, 4)
	gang(w, "a", "a0", "default", 1, 2, true)
	gang(w, "b", "b0", "default", 10, 0, true)
	gang(w, "a", "a1", "default", 1, 1, false)
	gang(w, "b", "b1", "default", 1, 1, false)
	if got := order(w, drf.Plugin{ByNamespace: true}); got != "b1 a1" {
		t.Errorf("by namespace: %s", got)
	}
	if got := order(w, drf.Plugin{}); got != "a1 b1" {
		t.Errorf("by gang, of which none holds anything: %s", got)
	}
}

// TestQueuesShareByAnnotations is hierarchical DRF: sci and eng have equal
// weights, and inside eng prod has three times the weight of dev.
func TestQueuesShareByAnnotations(t *testing.T) {
	w := cluster(16, 0)
	w.Queues = []snapshot.Queue{
		{Name: "dev", Hierarchy: "root/eng/dev", HierarchyWeights: "100/50/25"},
		{Name: "prod", Hierarchy: "root/eng/prod", HierarchyWeights: "100/50/75"},
		{Name: "sci", Hierarchy: "root/sci", HierarchyWeights: "100/50"},
	}
	for _, q := range []string{"dev", "prod", "sci"} {
		for i := range 16 {
			gang(w, q, q+strings.Repeat("i", i), q, 1, 0, false)
		}
	}
	held := map[string]int{}
	for _, name := range strings.Fields(order(w, drf.Plugin{Hierarchy: true})) {
		held[strings.TrimRight(name, "i")]++ // no queue's name but sci ends with i
	}
	if held["dev"] != 2 || held["prod"] != 6 || held["sc"] != 8 {
		t.Errorf("held: %v", held)
	}
}
