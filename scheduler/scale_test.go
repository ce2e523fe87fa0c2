package scheduler_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// guaranteed is 400 nodes and queues that are all guaranteed a little.
func guaranteed(queues int) *schedtest.World {
	w := queued(400, queues, 0, 0)
	for i := range w.Queues {
		w.Queues[i].Guarantee = resource.MakeList(resource.Quantity{Name: "cpu", Amount: 10})
	}
	return w
}

// BenchmarkQueues is 4,000 single pods in more and more queues, each of which is
// guaranteed something, on 400 nodes: where there is room for most, where the nodes are
// full, and 4,000 PodGroups without pods that plugin overcommit lets in.
func BenchmarkQueues(b *testing.B) {
	for _, queues := range []int{50, 500, 2000} {
		b.Run(fmt.Sprint("room-", queues), func(b *testing.B) {
			w := guaranteed(queues)
			wait(w, "g", queues, 4000, 1)
			cycles(b, w, placing(3200))
		})
	}
	for _, queues := range []int{50, 500, 2000} {
		b.Run(fmt.Sprint("full-", queues), func(b *testing.B) {
			w := guaranteed(queues)
			wait(w, "r", queues, 3200, 1)
			w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
			w.Settle(time.Minute)
			wait(w, "g", queues, 4000, 1)
			cycles(b, w, placing(0))
		})
	}
	for _, queues := range []int{50, 500, 2000} {
		b.Run(fmt.Sprint("overcommit-", queues), func(b *testing.B) {
			c, _, err := config.Parse([]byte(strings.Replace(config.Standard, "- name: proportion", "- name: overcommit\n  - name: proportion", 1)))
			if err != nil {
				b.Fatal(err)
			}
			w := guaranteed(queues)
			wait(w, "g", queues, 4000, 1)
			for _, g := range w.Gangs {
				g.Status.Phase, g.Pods = snapshot.GroupPending, nil
				g.MinResources = resource.MakeList(resource.Quantity{Name: "cpu", Amount: 4})
			}
			cyclesOf(b, c.Pipeline(), w, func(p plan.Plan) bool { return len(p.Statuses) > 0 })
		})
	}
}
