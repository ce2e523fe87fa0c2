package resourcequota_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/resourcequota"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func list(name string, amount int64) resource.List {
	return resource.MakeList(resource.Quantity{Name: name, Amount: amount})
}

// TestQuotasAreKept has gangs of two pods with a minimum of 4 GPUs and 2 CPUs, and says
// how many of five are let in under a quota.
func TestQuotasAreKept(t *testing.T) {
	for _, c := range []struct {
		name, quota   string
		hard, used    int64
		other         bool // the quota is of another namespace
		inqueue, want int
	}{
		{name: "no such quota", quota: "requests.other", hard: 1, want: 5},
		{name: "another namespace", quota: "pods", hard: 0, other: true, want: 5},
		{name: "device", quota: "requests.gpu", hard: 8, want: 2},
		{name: "device, some used", quota: "requests.gpu", hard: 8, used: 1, want: 1},
		{name: "cpu", quota: "cpu", hard: 6000, want: 3},
		{name: "requests.cpu", quota: "requests.cpu", hard: 6999, used: 1000, want: 2},
		{name: "limits.cpu", quota: "limits.cpu", hard: 3000, want: 1},
		{name: "pods", quota: "pods", hard: 7, want: 3},
		{name: "count/pods", quota: "count/pods", hard: 4, used: 2, want: 1},
		{name: "let in a moment ago", quota: "requests.gpu", hard: 12, inqueue: 2, want: 1},
		{name: "nothing left", quota: "requests.gpu", hard: 8, used: 9},
	} {
		w := schedtest.NewWorld()
		w.SetNode(schedtest.Real("n", resource.Quantity{Name: "gpu", Amount: 100}, resource.Quantity{Name: "cpu", Amount: 100000}, resource.Quantity{Name: "pods", Amount: 100}))
		for i, name := range []string{"a", "b", "c", "d", "e"} {
			g := w.AddGang(name, 2)
			if g.Status.Phase = snapshot.GroupPending; i < c.inqueue {
				g.Status.Phase = snapshot.GroupInqueue
			}
			g.MinResources = resource.MakeList(resource.Quantity{Name: "gpu", Amount: 4}, resource.Quantity{Name: "cpu", Amount: 2000}, resource.Quantity{Name: "limits.cpu", Amount: 3000})
		}
		w.Quotas = []snapshot.Quota{{Namespace: "default", Name: "q", Hard: list(c.quota, c.hard), Used: list(c.quota, c.used)}, {Namespace: "default", Name: "wide", Hard: list(c.quota, 1<<40)}}
		if c.other {
			w.Quotas[0].Namespace = "other"
		}
		p := schedtest.Pipeline()
		p.Plugins = append(p.Plugins, resourcequota.Plugin{})
		got := scheduler.Cycle(p, w.Snapshot(), w.Now)
		let := 0
		for _, s := range got.Statuses {
			if s.Want.Phase == snapshot.GroupInqueue {
				let++
			}
		}
		if let != c.want {
			t.Errorf("%s: %d let in, want %d:\n%s", c.name, let, c.want, got)
		}
		for _, u := range got.Unschedulable {
			if u.Code == plan.NamespaceQuota && !strings.Contains(u.Message, `ResourceQuota "q" allows namespace default`) {
				t.Errorf("%s: %s", c.name, u.Message)
			}
		}
	}
}
