package overcommit

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestSumsAreThoseOfAllBelow: what each queue was told by those below is what they say
// now, whoever was let in, and where amounts are so large that their sum is none.
func TestSumsAreThoseOfAllBelow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := snapshot.Document{Version: 1, Nodes: []snapshot.NodeSpec{{
			Name: "n", UID: "n", Ready: true, Allocatable: resource.MakeList(resource.Quantity{Name: "gpu", Amount: rapid.SampledFrom([]int64{10, 1000, resource.Max}).Draw(t, "there is")}),
		}}}
		for i := range rapid.IntRange(1, 6).Draw(t, "queues") {
			d.Queues = append(d.Queues, snapshot.Queue{Name: fmt.Sprint("q", i), Weight: 1, Parent: rapid.SampledFrom([]string{"", "q0", "q1"}).Draw(t, "parent")})
		}
		for i := range rapid.IntRange(0, 12).Draw(t, "gangs") {
			d.Gangs = append(d.Gangs, snapshot.GangDoc{GangSpec: snapshot.GangSpec{
				Key: fmt.Sprint("g", i), UID: fmt.Sprint("g", i), MinMember: 1, Queue: rapid.SampledFrom(d.Queues).Draw(t, "queue").Name,
				Status:       snapshot.GroupStatus{Phase: rapid.SampledFrom([]string{snapshot.GroupPending, snapshot.GroupPending, snapshot.GroupInqueue}).Draw(t, "phase")},
				MinResources: resource.MakeList(resource.Quantity{Name: "gpu", Amount: rapid.SampledFrom([]int64{1, 2, 500, resource.Max / 3, resource.Max}).Draw(t, "asks")}),
			}})
		}
		of, err := d.Build()
		if err != nil {
			t.Fatal(err)
		}
		s := framework.NewSession(framework.Pipeline{}, of, time.Unix(1, 0))
		b := booksOf(s)
		if b.ledger == nil {
			return
		}
		check := func(why string) {
			b.settle()
			for _, n := range b.nodes {
				for e := range n.sum {
					want := b.tally()
					for _, c := range n.children {
						want.add(c.others[e], 1)
					}
					if len(n.children) > 0 && fmt.Sprint(n.sum[e]) != fmt.Sprint(want) {
						t.Fatalf("%s: queue %s counts %v and those below say %v", why, n.queue.Name, n.sum[e], want)
					}
				}
			}
		}
		check("at first")
		for _, g := range s.Snapshot.Gangs {
			if !letIn(g) {
				s.Admit(g)
				check(g.Name)
			}
		}
	})
}
