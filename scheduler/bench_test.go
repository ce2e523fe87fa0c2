package scheduler_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler"
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
		if got := len(scheduler.Cycle(schedtest.Pipeline(), s, w.Now).Placements); got != placed {
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
