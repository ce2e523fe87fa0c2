package inventory_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
)

func host(name string, usable bool, allocatedCPUs, allocatedGPUs int64) backends.Host {
	return backends.Host{
		Name: name, Usable: usable, CPUs: 64, MemoryMiB: 1024, GPUs: map[string]int64{"a100": 8},
		Allocated: backends.Amounts{CPUs: allocatedCPUs, GPUs: map[string]int64{"a100": allocatedGPUs}},
	}
}

func clusterOf(hosts ...backends.Host) backends.Inventory {
	inv := backends.Inventory{System: "slurm", Version: "22.05.8", Hosts: hosts}
	p := backends.Partition{Name: "gpu", Up: true, MaxWalltime: time.Hour}
	for _, h := range hosts {
		p.Hosts = append(p.Hosts, h.Name)
	}
	inv.Partitions = []backends.Partition{p}
	return inv
}

var gpuNode = []hpcv1alpha1.VirtualNode{{Name: "c-gpu", Partition: "gpu", MaxPodsPending: 10}}

var busyNode = []hpcv1alpha1.VirtualNode{{Name: "c-gpu", Partition: "gpu", MaxPodsPending: 10, ForeignUse: hpcv1alpha1.ForeignUseIgnore}}

func TestViews(t *testing.T) {
	tests := map[string]struct {
		inv      backends.Inventory
		use      inventory.Use
		nodes    []hpcv1alpha1.VirtualNode
		capacity int64 // GPUs
		free     int64
		shapes   int
		unusable int
		problem  bool
	}{
		"all free":                           {inv: clusterOf(host("a", true, 0, 0), host("b", true, 0, 0)), capacity: 16, free: 16, shapes: 1},
		"a drained host is out":              {inv: clusterOf(host("a", true, 0, 0), host("b", false, 0, 0)), capacity: 8, free: 8, shapes: 1, unusable: 1},
		"foreign use is taken off":           {inv: clusterOf(host("a", true, 4, 3), host("b", true, 0, 0)), capacity: 16, free: 13, shapes: 2},
		"our own use is not foreign":         {inv: clusterOf(host("a", true, 4, 3)), use: inventory.Use{ByHost: map[string]backends.Amounts{"a": {CPUs: 4, GPUs: map[string]int64{"a100": 3}}}}, capacity: 8, free: 8, shapes: 1},
		"more ours than allocated is zero":   {inv: clusterOf(host("a", true, 1, 1)), use: inventory.Use{ByHost: map[string]backends.Amounts{"a": {CPUs: 9, GPUs: map[string]int64{"a100": 5}}}}, capacity: 8, free: 8, shapes: 1},
		"a job that has not reported":        {inv: clusterOf(host("a", true, 4, 3)), use: inventory.Use{Unsettled: map[string]bool{"a": true}}, capacity: 8, free: 8, shapes: 1},
		"foreign use waits its turn with us": {inv: clusterOf(host("a", true, 64, 8), host("b", true, 0, 0)), nodes: busyNode, capacity: 16, free: 16, shapes: 1},
		"a drained host is out all the same": {inv: clusterOf(host("a", true, 64, 8), host("b", false, 0, 0)), nodes: busyNode, capacity: 8, free: 8, shapes: 1, unusable: 1},
		"excluded host":                      {inv: clusterOf(host("a", true, 0, 0), host("b", true, 0, 0)), nodes: []hpcv1alpha1.VirtualNode{{Name: "n", Partition: "gpu", ExcludeHosts: []string{"b"}}}, capacity: 8, free: 8, shapes: 1},
		"unknown partition":                  {inv: clusterOf(host("a", true, 0, 0)), nodes: []hpcv1alpha1.VirtualNode{{Name: "n", Partition: "nope"}}, problem: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			nodes := tc.nodes
			if nodes == nil {
				nodes = gpuNode
			}
			v := inventory.Views(nodes, tc.inv, map[string]inventory.Use{nodes[0].Name: tc.use}, backends.Capabilities{ExclusiveComponents: true})[0]
			gpu := func(l corev1.ResourceList) int64 { q := l[wellknown.ResourceNvidiaGPU]; return q.Value() }
			if gpu(v.Capacity) != tc.capacity || gpu(v.Allocatable) != tc.free || len(v.Shapes.Shapes) != tc.shapes || v.Unusable != tc.unusable {
				t.Errorf("capacity %d free %d shapes %d unusable %d, want %d %d %d %d",
					gpu(v.Capacity), gpu(v.Allocatable), len(v.Shapes.Shapes), v.Unusable, tc.capacity, tc.free, tc.shapes, tc.unusable)
			}
			if q := v.Allocatable[corev1.ResourceEphemeralStorage]; q.String() != "1Ei" {
				t.Errorf("ephemeral storage %s: a pod that asks for some would fit nowhere", q.String())
			}
			if (v.Problem != "") != tc.problem {
				t.Errorf("problem %q", v.Problem)
			}
			parsed, err := hostshape.Parse(v.Shapes.Format())
			if err != nil || !parsed.ExclusiveComponents {
				t.Errorf("the annotation does not come back: %+v, %v", parsed, err)
			}
		})
	}
}

func TestOverlap(t *testing.T) {
	inv := clusterOf(host("a", true, 0, 0))
	inv.Partitions = append(inv.Partitions, backends.Partition{Name: "debug", Up: true, Hosts: []string{"a"}})
	views := inventory.Views(inventory.Defaults("c", inv), inv, nil, backends.Capabilities{})
	if len(views) != 2 || len(views[0].Overlaps) != 1 || views[0].Overlaps[0] != "c-debug" {
		t.Errorf("partitions that share hosts do not say so: %+v", views)
	}
}

// A node that submits into a reservation has the reservation's hosts and no other,
// and nobody else has them.
func TestReservedHosts(t *testing.T) {
	kept, down := host("b", false, 0, 0), host("c", false, 0, 0)
	kept.Reserved = true
	nodes := []hpcv1alpha1.VirtualNode{{Name: "all", Partition: "gpu"}, {Name: "lab", Partition: "gpu", Reservation: "lab"}}
	for name, tc := range map[string]struct {
		reservations map[string][]string
		all, lab     int
		unusable     int // of lab
		problem      bool
	}{
		"in force":                   {map[string][]string{"lab": {"b", "c"}}, 1, 1, 1, false},
		"another is in force":        {map[string][]string{"other": {"b"}}, 1, 0, 0, true},
		"none is":                    {map[string][]string{}, 1, 0, 0, true},
		"the system cannot tell":     {nil, 1, 1, 2, false},
		"its hosts are in no reach":  {map[string][]string{"lab": {"z"}}, 1, 0, 0, false},
		"it has a host that is down": {map[string][]string{"lab": {"c"}}, 1, 0, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			inv := clusterOf(host("a", true, 0, 0), kept, down)
			inv.Reservations = tc.reservations
			v := inventory.Views(nodes, inv, nil, backends.Capabilities{})
			if v[0].Hosts != tc.all || v[1].Hosts != tc.lab || v[1].Unusable != tc.unusable || (v[1].Problem != "") != tc.problem || v[0].Problem != "" {
				t.Errorf("all has %d hosts, lab %d and %d unusable, problem %q", v[0].Hosts, v[1].Hosts, v[1].Unusable, v[1].Problem)
			}
		})
	}
}

// What waits for one partition is not offered again by another that shares its
// hosts; hosts of its own come first, and what fits nowhere has been promised nothing.
func TestSharedHostsAreOfferedOnce(t *testing.T) {
	inv := clusterOf(host("a", true, 0, 0), host("b", true, 0, 0), host("c", true, 0, 0))
	inv.Partitions[0].Hosts = []string{"a", "b"}
	inv.Partitions = append(inv.Partitions, backends.Partition{Name: "debug", Up: true, Hosts: []string{"b", "c"}})
	eight := func(tasks int) []backends.Component {
		return []backends.Component{{Tasks: tasks, CPUs: 1, MemoryMiB: 1, GPUs: map[string]int64{"": 8}}}
	}
	for name, tc := range map[string]struct {
		gpu, debug           [][]backends.Component
		wantGPU, wantDebug   int64
		shapesGPU, shapesDbg int
	}{
		"nothing waits":         {wantGPU: 16, wantDebug: 16, shapesGPU: 2, shapesDbg: 2},
		"on a host of its own":  {gpu: [][]backends.Component{eight(1)}, wantGPU: 16, wantDebug: 16, shapesGPU: 2, shapesDbg: 2},
		"on the shared one":     {gpu: [][]backends.Component{eight(1), eight(1)}, wantGPU: 16, wantDebug: 8, shapesGPU: 2, shapesDbg: 2},
		"one job of two hosts":  {debug: [][]backends.Component{eight(2)}, wantGPU: 8, wantDebug: 16, shapesGPU: 2, shapesDbg: 2},
		"too large for now":     {debug: [][]backends.Component{eight(3)}, wantGPU: 16, wantDebug: 16, shapesGPU: 2, shapesDbg: 2},
		"its files are to come": {debug: [][]backends.Component{nil}, wantGPU: 16, wantDebug: 16, shapesGPU: 2, shapesDbg: 2},
	} {
		t.Run(name, func(t *testing.T) {
			views := inventory.Views(inventory.Defaults("c", inv), inv, map[string]inventory.Use{"c-gpu": {Waiting: waiting(tc.gpu)}, "c-debug": {Waiting: waiting(tc.debug)}}, backends.Capabilities{})
			for i, want := range []int64{tc.wantGPU, tc.wantDebug} {
				free := views[i].Allocatable[wellknown.ResourceNvidiaGPU]
				if free.Value() != want {
					t.Errorf("%s offers %d GPUs, want %d", views[i].VirtualNode.Name, free.Value(), want)
				}
				if n := len(views[i].Shapes.Shapes); n != []int{tc.shapesGPU, tc.shapesDbg}[i] {
					t.Errorf("%s has %d shapes: %+v", views[i].VirtualNode.Name, n, views[i].Shapes)
				}
			}
		})
	}
}

func waiting(jobs [][]backends.Component) []inventory.Waiting {
	var out []inventory.Waiting
	for _, components := range jobs {
		out = append(out, inventory.Waiting{Components: components})
	}
	return out
}

func TestNodeKeepsItsPodsInAnOutage(t *testing.T) {
	v := inventory.Views(gpuNode, clusterOf(host("a", true, 0, 0)), nil, backends.Capabilities{})[0]
	n := inventory.Node(v, inventory.State{Cluster: "c", Reachable: false, Why: "connection refused", Since: time.Unix(1, 0)})
	for _, taint := range n.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			t.Errorf("taint %s evicts", taint.Key)
		}
	}
	status := map[corev1.NodeConditionType]corev1.ConditionStatus{}
	for _, c := range n.Status.Conditions {
		status[c.Type] = c.Status
	}
	if status[corev1.NodeReady] != corev1.ConditionTrue || status[wellknown.NodeBatchSystemReachable] != corev1.ConditionFalse {
		t.Errorf("conditions are %v", status)
	}
}

// Where foreign use is left to the batch queue, the status tells of it still, and
// what our other node on the hosts holds is taken off as ever.
func TestForeignUseIsTold(t *testing.T) {
	inv := clusterOf(host("a", true, 64, 8), host("b", true, 16, 5))
	inv.Partitions = append(inv.Partitions, backends.Partition{Name: "other", Up: true, MaxWalltime: time.Hour, Hosts: []string{"b"}})
	nodes := []hpcv1alpha1.VirtualNode{busyNode[0], {Name: "c-other", Partition: "other", MaxPodsPending: 10}}
	use := map[string]inventory.Use{"c-other": {ByHost: map[string]backends.Amounts{"b": {CPUs: 4, GPUs: map[string]int64{"a100": 2}}}}}
	v := inventory.Views(nodes, inv, use, backends.Capabilities{ExclusiveComponents: true})[0]
	gpu := func(l corev1.ResourceList) int64 { q := l[wellknown.ResourceNvidiaGPU]; return q.Value() }
	if gpu(v.Capacity) != 16 || gpu(v.Allocatable) != 14 || gpu(v.Foreign) != 13 {
		t.Errorf("capacity %d, free %d, held by others %d; want 16, 14 and 13", gpu(v.Capacity), gpu(v.Allocatable), gpu(v.Foreign))
	}
}
