package cache

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

const (
	unlikeNodes, unlikeGangs = 2000, 1000
	unlikeOn                 = 8 // pods on each node
)

// asking takes in a gang of one pod that asks for what no other does.
func asking(c *Cache, g int) {
	name := fmt.Sprintf("u%06d", g)
	pg := podGroup(name, 1)
	pg.Spec.Queue = fmt.Sprintf("q%02d", g%loadQueues)
	c.SetGroup(pg)
	p := pod(name+"-00", name, fmt.Sprintf("%dm", 4000+g%100000))
	p.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = kresource.MustParse("1")
	c.SetPod(p)
}

// resident puts a pod of another scheduler on a node, under an identity of its own.
func resident(c *Cache, node, at, generation int, cpu, gpus string) {
	p := pod(fmt.Sprintf("r%05d-%d-%d", node, at, generation), "", cpu)
	p.Spec.SchedulerName, p.Spec.NodeName = "default-scheduler", fmt.Sprintf("n%05d", node)
	p.Spec.Containers[0].Resources.Requests["nvidia.com/gpu"] = kresource.MustParse(gpus)
	p.Status.Phase = corev1.PodRunning
	c.SetPod(p)
}

// BenchmarkUnlike is a snapshot and a cycle over 1,000 pods of which no two ask for the
// same and 2,000 nodes that are full, where nothing changes, and where 1 % of the waiting
// and a pod of 1 % of the nodes go and as many come before each; and the latter on nodes
// of which half have processors left and no GPUs, and half GPUs and no processors.
func BenchmarkUnlike(b *testing.B) {
	for _, kind := range []string{"still", "1%", "1%-apart"} {
		b.Run(kind, func(b *testing.B) {
			c := New()
			for i := range unlikeNodes {
				n := node(fmt.Sprintf("n%05d", i), "64")
				n.Status.Allocatable["nvidia.com/gpu"] = kresource.MustParse("8")
				c.SetNode(n)
			}
			for i := range loadQueues {
				c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("q%02d", i)}, Spec: volcanov1.QueueSpec{Weight: int32(1 + i%4)}})
			}
			fill := func(node, at, generation int) {
				if kind == "1%-apart" && node%2 == 0 {
					resident(c, node, at, generation, "7750m", "0")
				} else {
					resident(c, node, at, generation, "4", "1")
				}
			}
			for i := range unlikeNodes {
				for k := range unlikeOn {
					fill(i, k, 0)
				}
			}
			for g := range unlikeGangs {
				asking(c, g)
			}
			pipe := schedtest.Pipeline()
			first, at := 0, 0
			look := func() time.Duration {
				from := processor(b)
				p := scheduler.Cycle(pipe, c.Snapshot(start), start)
				took := processor(b) - from
				if len(p.Placements) != 0 || len(p.Unschedulable) != unlikeGangs {
					b.Fatalf("%d placed, %d wait", len(p.Placements), len(p.Unschedulable))
				}
				carry(c, p)
				return took
			}
			look() // all is new to it
			var used time.Duration
			for b.Loop() {
				b.StopTimer()
				if kind != "still" {
					for range unlikeGangs / 100 {
						name := fmt.Sprintf("u%06d", first)
						c.DeletePod("uid-" + name + "-00")
						c.DeleteGroup("ns", name, "uid-"+name)
						asking(c, first+unlikeGangs)
						first++
					}
					for range unlikeNodes / 100 {
						n := at % unlikeNodes
						c.DeletePod(fmt.Sprintf("uid-r%05d-0-%d", n, at/unlikeNodes))
						fill(n, 0, at/unlikeNodes+1)
						at++
					}
				}
				b.StartTimer()
				used += look()
			}
			b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}
