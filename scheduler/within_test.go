package scheduler_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestGangsThatGiveUpMembersInVainKeepNobodyOut: however many gangs could give up members of
// their own and would still have no room for what they need, those after them take that of
// others.
func TestGangsThatGiveUpMembersInVainKeepNobodyOut(t *testing.T) {
	const gangs = 34 // more than are tried, and no more pods than a node has
	w := schedtest.NewWorld()
	tell(t, w, "node m cpu=800 gpu=134", "node z cpu=8 gpu=2 label.k=z taint=t:NoSchedule")
	for i := range gangs {
		where := ""
		if i == gangs-1 {
			where = " select.k=z tolerate=t"
		}
		tell(t, w, fmt.Sprintf("group g%02d min=2 task.lead=1 priority=5", i),
			fmt.Sprintf("pods g%02d lead 1 gpu=2 priority=10%s", i, where),
			fmt.Sprintf("pods g%02d w 2 gpu=1", i))
	}
	tell(t, w, "cycle", "settle 1h")
	for i := range gangs {
		tell(t, w, fmt.Sprintf("fail g%02d-lead-0", i))
	}
	for i := range gangs - 1 {
		tell(t, w, fmt.Sprintf("group o%02d min=1 priority=7", i), fmt.Sprintf("pods o%02d w 1 gpu=2", i))
	}
	tell(t, w, "group low min=1", "pods low w 1 gpu=2 select.k=z tolerate=t", "cycle", "settle 1h")
	for i := range gangs {
		tell(t, w, fmt.Sprintf("restart g%02d-lead-0", i))
	}
	p := scheduler.Cycle(schedtest.PipelineWithout("elastic"), w.Snapshot(), w.Now)
	for _, c := range p.Claims {
		if c.Name == fmt.Sprintf("g%02d", gangs-1) && len(c.Evictions) == 1 && c.Evictions[0].Name == "low-w-0" {
			return
		}
	}
	t.Errorf("the last gang takes nobody's room:\n%s", p)
}

// TestGangsThatShrinkInVainKeepNobodyOut: so it is with what others have beyond their minimum.
func TestGangsThatShrinkInVainKeepNobodyOut(t *testing.T) {
	const gangs = 34
	w := schedtest.NewWorld()
	tell(t, w, fmt.Sprintf("node m cpu=800 gpu=%d", (gangs-1)*40+gangs*2), "node z cpu=8 gpu=4 label.k=z taint=t:NoSchedule")
	for i := range gangs {
		lead := "gpu=40"
		if i == gangs-1 {
			lead = "gpu=2 select.k=z tolerate=t"
		}
		tell(t, w, fmt.Sprintf("group g%02d min=2 task.lead=1 priority=5", i),
			fmt.Sprintf("pods g%02d lead 1 %s", i, lead), fmt.Sprintf("pods g%02d w 2 gpu=1", i))
	}
	tell(t, w, "cycle", "settle 1h")
	for i := range gangs {
		tell(t, w, fmt.Sprintf("fail g%02d-lead-0", i))
	}
	tell(t, w, "group fill min=1 priority=9", fmt.Sprintf("pods fill w %d gpu=120", (gangs-1)/3),
		"group grows min=1 priority=5", "pods grows w 2 gpu=2 select.k=z tolerate=t", "cycle", "settle 1h")
	for i := range gangs {
		tell(t, w, fmt.Sprintf("restart g%02d-lead-0", i))
	}
	p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
	for _, c := range p.Claims {
		if c.Action == "elastic" && c.Name == fmt.Sprintf("g%02d", gangs-1) && len(c.Evictions) == 1 && c.Evictions[0].Name == "grows-w-1" {
			return
		}
	}
	t.Errorf("the last gang has no room made:\n%s", p)
}
