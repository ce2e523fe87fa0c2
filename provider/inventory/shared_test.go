package inventory_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
)

func gpusOf(l corev1.ResourceList) int64 { q := l[wellknown.ResourceNvidiaGPU]; return q.Value() }

// Two nodes of one partition: what one holds is foreign to the other, whether it
// runs or waits, on the hosts that both have and on no other.
func TestTwoNodesOfOnePartition(t *testing.T) {
	eight := []backends.Component{{Tasks: 1, CPUs: 1, MemoryMiB: 1, GPUs: map[string]int64{"": 8}}}
	holds := func(host string, n int64) map[string]backends.Amounts {
		return map[string]backends.Amounts{host: {CPUs: n, GPUs: map[string]int64{"a100": n}}}
	}
	same := []hpcv1alpha1.VirtualNode{{Name: "day", Partition: "gpu"}, {Name: "night", Partition: "gpu", QOS: "low"}}
	apart := []hpcv1alpha1.VirtualNode{
		{Name: "day", Partition: "gpu", IncludeHosts: []string{"a"}}, {Name: "night", Partition: "gpu", ExcludeHosts: []string{"a"}},
	}
	for name, tc := range map[string]struct {
		nodes       []hpcv1alpha1.VirtualNode
		allocated   int64 // of host a
		use         map[string]inventory.Use
		day, night  int64
		countedDay  []string
		sharedHosts bool
	}{
		"nothing runs":              {nodes: same, day: 16, night: 16, sharedHosts: true},
		"the other's job runs":      {nodes: same, allocated: 3, use: map[string]inventory.Use{"night": {ByHost: holds("a", 3), Tags: []string{"n1"}}}, day: 13, night: 16, countedDay: []string{"n1"}, sharedHosts: true},
		"hosts were listed before":  {nodes: same, allocated: 0, use: map[string]inventory.Use{"night": {ByHost: holds("a", 3)}}, day: 13, night: 16, sharedHosts: true},
		"both run, and a stranger":  {nodes: same, allocated: 7, use: map[string]inventory.Use{"night": {ByHost: holds("a", 3)}, "day": {ByHost: holds("a", 2)}}, day: 11, night: 12, sharedHosts: true},
		"the other's has not told":  {nodes: same, allocated: 8, use: map[string]inventory.Use{"night": {Unsettled: map[string]bool{"a": true}, Guessed: holds("a", 8), Tags: []string{"n1"}}}, day: 8, night: 16, countedDay: []string{"n1"}, sharedHosts: true},
		"the other's job waits":     {nodes: same, use: map[string]inventory.Use{"night": {Waiting: []inventory.Waiting{{Components: eight, Tags: []string{"n2"}}}}}, day: 8, night: 16, countedDay: []string{"n2"}, sharedHosts: true},
		"its directory is to come":  {nodes: same, use: map[string]inventory.Use{"night": {Waiting: []inventory.Waiting{{Tags: []string{"n2"}}}}}, day: 16, night: 16, sharedHosts: true},
		"hosts apart, a job runs":   {nodes: apart, allocated: 3, use: map[string]inventory.Use{"day": {ByHost: holds("a", 3)}}, day: 8, night: 8},
		"hosts apart, a job waits":  {nodes: apart, use: map[string]inventory.Use{"day": {Waiting: []inventory.Waiting{{Components: eight}}}}, day: 8, night: 8},
		"hosts apart, not ours yet": {nodes: apart, allocated: 3, day: 5, night: 8},
	} {
		t.Run(name, func(t *testing.T) {
			inv := clusterOf(host("a", true, tc.allocated, tc.allocated), host("b", true, 0, 0))
			views := inventory.Views(tc.nodes, inv, tc.use, backends.Capabilities{})
			if day, night := gpusOf(views[0].Allocatable), gpusOf(views[1].Allocatable); day != tc.day || night != tc.night {
				t.Errorf("day offers %d GPUs, night %d; want %d and %d", day, night, tc.day, tc.night)
			}
			shapes, err := hostshape.Parse(views[0].Shapes.Format())
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(shapes.Counted, tc.countedDay) {
				t.Errorf("counted in day's shapes: %v, want %v", shapes.Counted, tc.countedDay)
			}
			for _, s := range shapes.Shapes {
				if shared := slices.Equal(s.With, []string{"night"}); shared != tc.sharedHosts {
					t.Errorf("shape %+v", s)
				}
			}
			if overlaps := len(views[0].Overlaps) > 0; overlaps != tc.sharedHosts {
				t.Errorf("overlaps %v", views[0].Overlaps)
			}
		})
	}
}

// A node whose jobs ask for features has the hosts that have them.
func TestConstraintChoosesHosts(t *testing.T) {
	inv := clusterOf(host("a", true, 0, 0), host("b", true, 0, 0), host("c", true, 0, 0))
	inv.Hosts[0].Features = []string{"ib", "new"}
	inv.Hosts[1].Features = []string{"ib", "switch=s1"}
	inv.Hosts[2].Features = []string{"old", "switch=s2"}
	for constraint, want := range map[string]int{
		"": 3, "ib": 2, "ib&new": 1, "ib,new": 1, "new|old": 2, "ib&new|old": 3, "!ib": 3, "[ib*2&old]": 3,
		"nosuch": 3, // a feature that a job brings about
	} {
		v := inventory.Views([]hpcv1alpha1.VirtualNode{{Name: "n", Partition: "gpu", Constraint: constraint}}, inv, nil, backends.Capabilities{})[0]
		if v.Hosts != want {
			t.Errorf("constraint %q: %d hosts, want %d", constraint, v.Hosts, want)
		}
	}
	inv.System = "pbs"
	for constraint, want := range map[string]int{"switch=s1": 1, "switch=s2:old": 1, "switch=s1:old": 3} {
		v := inventory.Views([]hpcv1alpha1.VirtualNode{{Name: "n", Partition: "gpu", Constraint: constraint}}, inv, nil, backends.Capabilities{})[0]
		if v.Hosts != want {
			t.Errorf("PBS constraint %q: %d hosts, want %d", constraint, v.Hosts, want)
		}
	}
}
