package inventory_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
)

// TestLicenses: every node of the cluster has all licences, less what is not its own
// jobs', and those that no resource can be named after it does not offer.
func TestLicenses(t *testing.T) {
	inv := clusterOf(host("a", true, 0, 0), host("b", true, 0, 0))
	inv.Licenses = []backends.License{{Name: "db@server", Total: 4}, {Name: "fluent", Total: 10, Used: 7}, {Name: "idle", Total: 2, Used: 1}}
	nodes := []hpcv1alpha1.VirtualNode{{Name: "n", Partition: "gpu"}, {Name: "m", Partition: "gpu"}, {Name: "broken", Partition: "nope"}}
	use := map[string]inventory.Use{
		"n": {Licenses: map[string]int64{"fluent": 3, "idle": 2}}, // the batch system knows of fewer
		"m": {Licenses: map[string]int64{"fluent": 1}},
	}
	views := inventory.Views(nodes, inv, use, backends.Capabilities{})
	for i, want := range []map[corev1.ResourceName][2]int64{
		{"licenses.isthmus.sh/fluent": {10, 6}, "licenses.isthmus.sh/idle": {2, 2}},
		{"licenses.isthmus.sh/fluent": {10, 4}, "licenses.isthmus.sh/idle": {2, 1}},
		{},
	} {
		v := views[i]
		for name, amounts := range want {
			total, free := v.Capacity[name], v.Allocatable[name]
			if total.Value() != amounts[0] || free.Value() != amounts[1] {
				t.Errorf("%s: %s: %s of %s free, want %d of %d", v.VirtualNode.Name, name, free.String(), total.String(), amounts[1], amounts[0])
			}
		}
		for name := range v.Capacity {
			if _, known := want[name]; !known && name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourcePods && name != corev1.ResourceEphemeralStorage && name != "nvidia.com/gpu" {
				t.Errorf("%s offers %s", v.VirtualNode.Name, name)
			}
		}
		if names := v.LicenseNames(); len(names) != 3 || names[0] != "db@server" {
			t.Errorf("%s may be asked for %q", v.VirtualNode.Name, names)
		}
		for _, s := range v.Shapes.Shapes {
			if _, has := s.Resources["licenses.isthmus.sh/fluent"]; has {
				t.Error("no host has licences")
			}
		}
	}
}

// TestUnreadLicenses: a node goes on to offer what it did, and its condition Limited says
// why that is not of now, beside what is missing anyway.
func TestUnreadLicenses(t *testing.T) {
	whole := backends.Capabilities{History: true, Heterogeneous: true, StartEstimate: true, Enter: true, Reservation: true, Reserve: true, ExcludeHosts: true, Licenses: true, Switches: true, Shards: true, After: true}
	inv := clusterOf(host("a", true, 0, 0))
	inv.Licenses, inv.LicensesUnread = []backends.License{{Name: "fluent", Total: 10}}, "permission denied"
	for reason, caps := range map[string]backends.Capabilities{"LicensesNotRead": whole, "NotSupported": {Licenses: true}} {
		v := inventory.Views(gpuNode, inv, nil, caps)[0]
		if n := v.Allocatable["licenses.isthmus.sh/fluent"]; n.Value() != 10 {
			t.Errorf("%s: %s licences are offered, want 10", reason, n.String())
		}
		for _, c := range inventory.Node(v, inventory.State{Cluster: "c", Reachable: true}).Status.Conditions {
			if c.Type == wellknown.NodeLimited && (c.Status != corev1.ConditionTrue || c.Reason != reason || !strings.HasSuffix(c.Message, "the licences are as they were read last: permission denied")) {
				t.Errorf("want %s: %+v", reason, c)
			}
		}
	}
}
