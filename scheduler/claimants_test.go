package scheduler_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
	"github.com/isthmus-hpc/isthmus/scheduler/whatif"
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

// sameListedAnew compares a plan with that of actions which keep nothing of who may go from
// one claim to the next.
func sameListedAnew(pipe framework.Pipeline, w *schedtest.World, p plan.Plan) error {
	if len(p.Claims) == 0 {
		return nil // what is listed for the first is listed once
	}
	pipe.Actions = slices.Concat([]framework.Action{mutant{whatif.ListAnew}}, pipe.Actions)
	if got, want := fmt.Sprintf("%+v", scheduler.Cycle(pipe, w.Snapshot(), w.Now)), fmt.Sprintf("%+v", p); got != want {
		return fmt.Errorf("plans differ when who may go is listed anew:\n%s\n%s", want, got)
	}
	return nil
}

// TestManyClaimants: in clusters that are full, gangs of many sizes, priorities and queues,
// that may be shrunk or not, take each other's room, many in one cycle. What is kept of who
// may go from one claim to the next changes no plan.
func TestManyClaimants(t *testing.T) {
	declared, claims := capacityWith(t, ""), map[string]int{}
	for seed := range uint64(seeds(t) / 10) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := schedtest.NewWorld()
		do := func(format string, args ...any) {
			if _, err := w.Do(fmt.Sprintf(format, args...)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 4 + r.IntN(12) {
			do("node n%d cpu=64 gpu=8", i)
		}
		for i := range r.IntN(3) {
			do("virtual v%d shape=%d*cpu=8,gpu=%d", i, 1+r.IntN(3), 1+r.IntN(4))
		}
		queues := 1 + r.IntN(4)
		for i := range queues {
			do("queue q%d weight=%d deserved.gpu=%d%s", i, 1+r.IntN(3), r.IntN(20), []string{"", "", fmt.Sprintf(" cap.gpu=%d", 10+r.IntN(30))}[r.IntN(3)])
		}
		pipe := schedtest.Pipeline()
		if seed%2 == 1 {
			pipe = declared
		}
		for round := range 3 {
			for i := range 20 + r.IntN(20) {
				size, g := 1+r.IntN(5), fmt.Sprintf("g%d-%d", round, i)
				do("group %s min=%d queue=q%d priority=%d", g, 1+r.IntN(size), min(r.IntN(queues), round), r.IntN(2)+r.IntN(2*round+1))
				do("pods %s w %d cpu=1 gpu=%d", g, size, 1+r.IntN(3))
			}
			for range 2 {
				p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
				if err := errors.Join(sameListedAnew(pipe, w, p), sameApart(pipe, w, p)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, c := range p.Claims {
					claims[c.Action]++
				}
				w.Apply(p)
				w.Settle(10 * time.Minute)
			}
		}
	}
	if claims["preempt"] == 0 || claims["reclaim"] == 0 {
		t.Errorf("room was made by %v", claims)
	}
	t.Logf("claims: %v", claims)
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
