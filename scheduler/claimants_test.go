package scheduler_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// contended is nodes of 8 GPUs that as many gangs of one pod of a GPU fill as there are
// claimants, which wait: gangs as large that may take their room. With queues the claimants
// are in one of their own, to which half of everything belongs, and of no more priority.
func contended(claimants int, queues bool) *schedtest.World {
	w := queued(claimants/8, 1, claimants, 1)
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	w.Settle(time.Hour)
	queue, priority := "q00", int32(10)
	if queues {
		queue, priority = "q01", 0
		w.Queues = append(w.Queues, snapshot.Queue{Name: queue, Weight: 1, State: snapshot.QueueOpen})
	}
	for i := range claimants {
		g := w.AddGang(fmt.Sprintf("c%05d", i), 1)
		g.Queue, g.Priority = queue, priority
		g.AddPods("w", 1, snapshot.ClassSpec{Requests: amounts(4, 1)})
	}
	return w
}

// BenchmarkClaimants is gangs that take the room of as many others in one cycle, inside a
// queue and between two.
func BenchmarkClaimants(b *testing.B) {
	for _, n := range []int{1000, 2000, 4000} {
		for _, queues := range []bool{false, true} {
			name, want := "preempt", n
			if queues {
				name, want = "reclaim", n/2
			}
			b.Run(fmt.Sprintf("%s-%d", name, n), func(b *testing.B) {
				cycles(b, contended(n, queues), func(p plan.Plan) bool { return len(p.Claims) == want })
			})
		}
	}
}

// BenchmarkNominated is one gang, of single pods of which all have room kept for them, and
// the same where they were moved and are there anew.
func BenchmarkNominated(b *testing.B) {
	for _, pods := range []int{2500, 10000} {
		for _, moved := range []bool{false, true} {
			name := fmt.Sprint("room-", pods)
			if moved {
				name = fmt.Sprint("moved-", pods)
			}
			b.Run(name, func(b *testing.B) {
				w := queued(pods, 1, 1, pods)
				g := w.Gangs[0]
				n := &snapshot.Nomination{Domain: plan.RealDomain, Since: w.Now.Add(-time.Minute).UnixNano(), Until: w.Now.Add(9 * time.Minute).UnixNano()}
				for i, p := range g.Pods {
					np := snapshot.NominatedPod{UID: p.UID, Node: w.Nodes[i].Name}
					if moved {
						np = snapshot.NominatedPod{UID: "old-" + p.UID, Node: w.Nodes[i].Name, Name: p.Name, Needs: resource.MakeList(resource.Quantity{Name: gpu, Amount: 1})}
					}
					n.Pods = append(n.Pods, np)
				}
				g.Nominated = n
				cycles(b, w, placing(1))
			})
		}
	}
}
