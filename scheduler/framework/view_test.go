package framework_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestViewsKeepInStep sends pods away, places gangs, and puts pods on nodes and takes
// them back in random turns: the futures that are kept are those that are worked out anew.
func TestViewsKeepInStep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := schedtest.NewWorld()
		for i := range 6 {
			w.SetNode(schedtest.Real(fmt.Sprintf("n%02d", i), resource.Quantity{Name: "cpu", Amount: 8000}, resource.Quantity{Name: "pods", Amount: 20}))
		}
		one := func(prefix string, count, pods int) {
			for i := range count {
				g := w.AddGang(fmt.Sprint(prefix, i), int64(pods))
				if n := rapid.IntRange(0, 4).Draw(t, "hours"); n > 0 {
					g.Estimate = int64(time.Duration(n) * time.Hour)
				}
				spec := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000})}
				if rapid.Bool().Draw(t, "port") {
					spec.HostPorts = []snapshot.HostPort{{Protocol: "TCP", Port: 80}}
				}
				g.AddPods("w", pods, spec)
			}
		}
		one("r", 8, 3)
		w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
		w.Settle(time.Minute)
		one("g", 6, 2)
		s := w.Snapshot()
		ses := framework.NewSession(schedtest.Pipeline(), s, w.Now)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			g := s.Gangs[rapid.IntRange(0, len(s.Gangs)-1).Draw(t, "gang")]
			waits := g.Waiting > 0 && !ses.Placing(g)
			switch step := rapid.IntRange(0, 2).Draw(t, "step"); {
			case step == 0 && waits:
				job := framework.NewJob(g, g.Pods)
				mark := ses.Txn.Checkpoint()
				fit, _ := ses.FindDomain(g, job, g.Pods, nil)
				if fit != nil && rapid.Bool().Draw(t, "back") {
					ses.Txn.Rollback(mark)
				} else if fit != nil {
					ses.Commit(g, fit.Domain, "", 0, fit.Assigned, nil)
				}
			case step == 1 && !waits && g.Pods[0].Node != "" && !ses.Evicted(g.Pods[0]):
				ses.Evict(g, g.Pods[0])
			}
			if rapid.Bool().Draw(t, "look") {
				continue
			}
			kept, anew := framework.ThenAndNow(ses, g, 0)
			if !slices.EqualFunc(kept, anew, slices.Equal[[]int64]) {
				t.Fatalf("kept\n%v\nand anew\n%v", kept, anew)
			}
		}
	})
}
