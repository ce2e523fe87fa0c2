package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// A gang goes to no virtual node whose batch system has no account for its
// namespace: beside ordinary nodes it goes to those, and alone it waits and says
// why. What fails for one namespace fails for no other.
func TestServedNamespaces(t *testing.T) {
	needs := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000}, resource.Quantity{Name: "pods", Amount: 1})}
	world := func(real bool, serves ...string) *schedtest.World {
		w := schedtest.NewWorld()
		n := schedtest.Virtual("hpc", hostshape.Shapes{Shapes: []hostshape.Shape{{Count: 4, Resources: map[string]int64{"cpu": 8000}}}})
		n.Serves = serves
		w.SetNode(n)
		if real {
			w.SetNode(schedtest.Real("zeta", resource.Quantity{Name: "cpu", Amount: 64000}, resource.Quantity{Name: "pods", Amount: 100}))
		}
		for _, ns := range []string{"first", "other"} {
			g := w.AddGang(ns, 1)
			g.Key, g.Namespace = "podgroup/"+ns+"/"+ns, ns
			g.AddPods("w", 1, needs)
		}
		return w
	}
	for name, tc := range map[string]struct {
		real   bool
		serves []string
		labels map[string]map[string]string
		want   string // "<namespace>:<node>", sorted
		says   string
	}{
		"not told":             {want: "first:hpc other:hpc"},
		"all":                  {serves: []string{""}, want: "first:hpc other:hpc"},
		"one, by its name":     {serves: []string{"kubernetes.io/metadata.name=other"}, want: "other:hpc", says: "no entry of spec.accounts of its BatchCluster selects namespace first"},
		"by a label":           {serves: []string{"team=a", "team in (b,c)"}, labels: map[string]map[string]string{"first": {"team": "c"}, "other": {"team": "d"}}, want: "first:hpc", says: "selects namespace other"},
		"none":                 {serves: []string{"team=a"}, says: "selects namespace first"},
		"beside ordinary ones": {real: true, serves: []string{"team=a"}, labels: map[string]map[string]string{"first": {"team": "a"}}, want: "first:hpc other:zeta"},
	} {
		t.Run(name, func(t *testing.T) {
			s := world(tc.real, tc.serves...).Snapshot()
			s.Namespaces = tc.labels
			got := scheduler.Cycle(schedtest.Pipeline(), s, schedtest.NewWorld().Now)
			var placed []string
			for _, p := range got.Placements {
				for _, b := range p.Binds {
					placed = append(placed, p.Namespace+":"+b.Node)
				}
			}
			if text := strings.Join(placed, " "); text != tc.want {
				t.Errorf("placed %q, want %q:\n%s", text, tc.want, got)
			}
			if tc.says != "" && !strings.Contains(got.String(), tc.says) {
				t.Errorf("it does not say %q:\n%s", tc.says, got)
			}
		})
	}
}
