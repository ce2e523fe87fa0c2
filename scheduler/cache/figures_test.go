package cache

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

const (
	loadNodes, loadQueues = 5000, 50
	loadGangs, loadSize   = 500, 20
)

// loaded is a cache that knows 5,000 nodes of 8 GPUs and 50 queues.
func loaded() *Cache {
	c := New()
	for i := range loadNodes {
		n := node(fmt.Sprintf("n%05d", i), "64")
		n.Status.Allocatable["nvidia.com/gpu"] = kresource.MustParse("8")
		c.SetNode(n)
	}
	for i := range loadQueues {
		c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("q%02d", i)}, Spec: volcanov1.QueueSpec{Weight: int32(1 + i%4)}})
	}
	return c
}

// arrive takes in gangs of pods of one GPU, numbered from first on.
func arrive(c *Cache, first, count int) {
	for g := first; g < first+count; g++ {
		name := fmt.Sprintf("g%05d", g)
		pg := podGroup(name, loadSize)
		pg.Spec.Queue = fmt.Sprintf("q%02d", g%loadQueues)
		c.SetGroup(pg)
		for i := range loadSize {
			p := pod(fmt.Sprintf("%s-%02d", name, i), name, "4")
			p.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = kresource.MustParse("1")
			c.SetPod(p)
		}
	}
}

// carry shows the cache what a plan leads to: pods that run, PodGroups that say so.
func carry(c *Cache, p plan.Plan) {
	for _, pl := range p.Placements {
		for i, b := range pl.Binds {
			q := bound(pod(b.Name, pl.Name, "4"), b.Node, "attempt-"+pl.Name, len(pl.Binds), i)
			q.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = kresource.MustParse("1")
			q.Status.Phase = corev1.PodRunning
			c.SetPod(q)
		}
	}
	for _, st := range p.Statuses {
		c.mu.Lock()
		if e := c.gangs[st.Gang]; e != nil { // as StatusWritten does
			e.written, e.writtenRV, e.snap = &st.Want, "11", nil
		}
		c.mu.Unlock()
	}
}

// leave takes a gang away.
func leave(c *Cache, g int) {
	name := fmt.Sprintf("g%05d", g)
	for i := range loadSize {
		c.DeletePod(fmt.Sprintf("uid-%s-%02d", name, i))
	}
	c.DeleteGroup("ns", name, "uid-"+name)
}

// BenchmarkChange is a snapshot and a cycle: where nothing was known before, with
// 10,000 pods in 500 gangs to be placed, and where all of them run and 1 % go and
// as many come. Only snapshot and cycle are measured.
func BenchmarkChange(b *testing.B) {
	look := func(b *testing.B, c *Cache, placed int) (plan.Plan, time.Duration) {
		from := processor(b)
		p := scheduler.Cycle(schedtest.Pipeline(), c.Snapshot(start), start)
		if len(p.Placements) != placed {
			b.Fatalf("%d gangs placed, want %d", len(p.Placements), placed)
		}
		return p, processor(b) - from
	}
	tell := func(b *testing.B, used time.Duration) {
		b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
	}
	b.Run("full", func(b *testing.B) {
		c := loaded()
		arrive(c, 0, loadGangs)
		var used time.Duration
		for b.Loop() {
			c.mu.Lock()
			c.recompile() // as after a restart
			c.mu.Unlock()
			_, took := look(b, c, loadGangs)
			used += took
		}
		tell(b, used)
	})
	b.Run("1%", func(b *testing.B) {
		c := loaded()
		arrive(c, 0, loadGangs)
		p, _ := look(b, c, loadGangs)
		carry(c, p)
		first, next := 0, loadGangs
		var used time.Duration
		for b.Loop() {
			b.StopTimer()
			for range loadGangs / 100 {
				leave(c, first)
				first++
			}
			arrive(c, next, loadGangs/100)
			next += loadGangs / 100
			b.StartTimer()
			p, took := look(b, c, loadGangs/100)
			b.StopTimer()
			used += took
			carry(c, p)
			b.StartTimer()
		}
		tell(b, used)
	})
}

// processor is the time that this process has spent on processors.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
