package scheduler_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func gangs(w *schedtest.World, n, size int, cpu, gpus int64) {
	for i := range n {
		g := w.AddGang(fmt.Sprintf("g%04d", i), int64(size))
		g.AddPods("w", size, snapshot.ClassSpec{Requests: amounts(cpu, gpus)})
	}
}

func run(b *testing.B, w *schedtest.World, placed int) {
	s := w.Snapshot()
	b.ReportAllocs()
	for b.Loop() {
		if got := len(schedtest.FromNothing(schedtest.Pipeline(), s, w.Now).Placements); got != placed {
			b.Fatalf("%d gangs placed, want %d", got, placed)
		}
	}
}

// BenchmarkRealNodes is 100 gangs of 20 on 1,000 nodes.
func BenchmarkRealNodes(b *testing.B) {
	w := schedtest.NewWorld()
	for i := range 1000 {
		w.SetNode(schedtest.Real(fmt.Sprintf("n%04d", i), append(amounts(64, 8), resource.Quantity{Name: "pods", Amount: 110})...))
	}
	gangs(w, 100, 20, 4, 1)
	run(b, w, 100)
}

// BenchmarkPlainPods is 20,000 pods without a PodGroup, each a gang of its own, on 1,000
// nodes: what a gang costs must not grow with how many are placed in the same cycle.
func BenchmarkPlainPods(b *testing.B) {
	w := schedtest.NewWorld()
	for i := range 1000 {
		w.SetNode(schedtest.Real(fmt.Sprintf("n%04d", i), append(amounts(64, 8), resource.Quantity{Name: "pods", Amount: 110})...))
	}
	gangs(w, 20000, 1, 1, 0)
	for _, g := range w.Gangs {
		g.Plain = true
	}
	run(b, w, 20000)
}

// BenchmarkVirtualNodes is 100 gangs of 20 on 10 partitions of 100 hosts.
func BenchmarkVirtualNodes(b *testing.B) {
	w := schedtest.NewWorld()
	for i := range 10 {
		w.SetNode(schedtest.Virtual(fmt.Sprintf("v%d", i), hostshape.Shapes{Shapes: []hostshape.Shape{{Count: 100, Resources: map[string]int64{"cpu": 64000, gpu: 8}}}}))
	}
	gangs(w, 100, 20, 4, 1)
	run(b, w, 100)
}

// BenchmarkGang512 is one gang of 512 on one partition.
func BenchmarkGang512(b *testing.B) {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Virtual("v", hostshape.Shapes{ExclusiveComponents: true, Shapes: []hostshape.Shape{{Count: 64, Resources: map[string]int64{"cpu": 64000, gpu: 8}}}}))
	gangs(w, 1, 512, 4, 1)
	run(b, w, 1)
}

// BenchmarkTier512 is one gang of 512 that has to keep to one of 10 blocks, on
// 5,000 nodes in racks of 20 that are half full.
func BenchmarkTier512(b *testing.B) {
	w := schedtest.NewWorld()
	blocks := map[int][]snapshot.Member{}
	for r := range 250 {
		h := snapshot.HyperNodeSpec{Name: fmt.Sprintf("rack%03d", r), Tier: 1}
		for i := range 20 {
			name := fmt.Sprintf("n%03d-%02d", r, i)
			w.SetNode(schedtest.Real(name, append(amounts(64, int64(4+i%2*4)), resource.Quantity{Name: "pods", Amount: 110})...))
			h.Members = append(h.Members, snapshot.Member{Exact: name})
		}
		w.HyperNodes = append(w.HyperNodes, h)
		blocks[r/25] = append(blocks[r/25], snapshot.Member{HyperNode: true, Exact: h.Name})
	}
	for i := range 10 {
		w.HyperNodes = append(w.HyperNodes, snapshot.HyperNodeSpec{Name: fmt.Sprintf("block%d", i), Tier: 2, Members: blocks[i]})
	}
	gangs(w, 1, 512, 4, 4)
	w.Gangs[0].Topology = &snapshot.Topology{Hard: true, Tier: 2}
	run(b, w, 1)
}
