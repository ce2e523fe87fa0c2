package scheduler_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// queued is nodes of 64 CPUs and 8 GPUs, queues, and gangs of size pods of one
// GPU that wait in them in turn.
func queued(nodes, queues, count, size int) *schedtest.World {
	w := schedtest.NewWorld()
	for i := range nodes {
		w.SetNode(schedtest.Real(fmt.Sprintf("n%05d", i), append(amounts(64, 8), resource.Quantity{Name: "pods", Amount: 110})...))
	}
	for i := range queues {
		w.Queues = append(w.Queues, snapshot.Queue{Name: fmt.Sprintf("q%02d", i), Weight: int64(1 + i%4), State: snapshot.QueueOpen})
	}
	wait(w, "g", queues, count, size)
	return w
}

// wait adds gangs whose names start with prefix and that wait in the queues in turn.
func wait(w *schedtest.World, prefix string, queues, count, size int) {
	for i := range count {
		g := w.AddGang(fmt.Sprintf("%s%04d", prefix, i), int64(size))
		g.Queue = fmt.Sprintf("q%02d", i%queues)
		g.AddPods("w", size, snapshot.ClassSpec{Requests: amounts(4, 1)})
	}
}

// processor is the time that this process has spent on processors. Unlike the
// time on the clock it hardly depends on what else the machine does.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// cycles measures cycles over a world and what they take of memory beside the
// snapshot itself. good tells whether a plan is the one wanted.
func cycles(b *testing.B, w *schedtest.World, good func(plan.Plan) bool) {
	b.Helper()
	cyclesOf(b, schedtest.Pipeline(), w, good)
}

func cyclesOf(b *testing.B, pipe framework.Pipeline, w *schedtest.World, good func(plan.Plan) bool) {
	b.Helper()
	s := w.Snapshot()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.ReportAllocs()
	start := processor(b)
	for b.Loop() {
		if p := schedtest.FromNothing(pipe, s, w.Now); !good(p) {
			b.Fatalf("%d placements, %d claims, %d wait", len(p.Placements), len(p.Claims), len(p.Unschedulable))
		}
	}
	used := processor(b) - start
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(before.HeapAlloc+(after.TotalAlloc-before.TotalAlloc)/uint64(b.N))/(1<<20), "MiB") //nolint:gosec // positive
	runtime.KeepAlive(s)
}

func placing(n int) func(plan.Plan) bool {
	return func(p plan.Plan) bool { return len(p.Placements) == n }
}

// BenchmarkFull is 500 gangs of 20 in 50 queues on 5,000 nodes, and the same
// with twice the nodes, with 10,000 resident pods and with 20,000, and where the
// nodes are full and all wait.
func BenchmarkFull(b *testing.B) {
	for _, c := range []struct {
		name            string
		nodes, resident int
	}{{"5000", 5000, 0}, {"10000", 10000, 0}, {"5000-resident-10000", 5000, 10000}, {"5000-resident-20000", 5000, 20000}, {"5000-full", 5000, 40000}} {
		b.Run(c.name, func(b *testing.B) {
			w := queued(c.nodes, 50, 0, 0)
			wait(w, "r", 50, c.resident/20, 20)
			want := 500
			if c.resident > 0 {
				w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
				w.Settle(time.Minute)
			}
			if c.resident == c.nodes*8 {
				want = 0
			}
			wait(w, "g", 50, 500, 20)
			cycles(b, w, placing(want))
		})
	}
}

// BenchmarkPreempt64 is a gang of 64 that takes the room of 64 pods of less
// priority, on nodes that are full.
func BenchmarkPreempt64(b *testing.B) {
	for _, nodes := range []int{64, 5000} {
		b.Run(fmt.Sprint(nodes), func(b *testing.B) {
			w := queued(nodes, 1, nodes/8, 64)
			w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
			w.Settle(time.Hour)
			g := w.AddGang("important", 64)
			g.Queue, g.Priority = "q00", 10
			g.AddPods("w", 64, snapshot.ClassSpec{Requests: amounts(4, 1)})
			cycles(b, w, func(p plan.Plan) bool { return len(p.Claims) == 1 && len(p.Claims[0].Evictions) == 64 })
		})
	}
}

// BenchmarkClaims is one gang whose pods claim a volume each that is made for them, on
// 200 nodes.
func BenchmarkClaims(b *testing.B) {
	for _, pods := range []int{500, 1000, 2000} {
		b.Run(fmt.Sprint(pods), func(b *testing.B) {
			w := queued(200, 1, 0, 0)
			for i := range w.Nodes {
				w.Nodes[i].Labels = map[string]string{corev1.LabelHostname: w.Nodes[i].Name}
			}
			w.Claims = &claims.Spec{StorageClasses: []*storagev1.StorageClass{schedtest.StorageClass("made", "csi.example.com")}}
			g := w.AddGang("g", int64(pods))
			g.Queue = "q00"
			for i := range pods {
				name := fmt.Sprintf("c%05d", i)
				w.Claims.VolumeClaims = append(w.Claims.VolumeClaims, schedtest.VolumeClaim(name, "made", "1Gi"))
				g.AddPods("w", 1, snapshot.ClassSpec{Requests: amounts(4, 0), Claims: schedtest.Claiming("v:" + name)})
			}
			cycles(b, w, placing(1))
		})
	}
}
