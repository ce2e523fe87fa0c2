package inventory_test

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
)

// What an administrator and a scheduler read of a node: hosts by shape, what is
// free of them, what others hold, what waits and since when, what is missing.
func TestStatus(t *testing.T) {
	gpus := map[string]int64{"a100": 8}
	inv := backends.Inventory{
		Partitions: []backends.Partition{{Name: "main", Up: true, Hosts: []string{"h1", "h2", "h3"}, MaxWalltime: time.Hour}},
		Hosts: []backends.Host{
			{Name: "h1", Usable: true, CPUs: 64, MemoryMiB: 1024, GPUs: gpus, Features: []string{"ib", "nvlink"}},
			{Name: "h2", Usable: true, CPUs: 64, MemoryMiB: 1024, GPUs: gpus, Features: []string{"ib"}, Allocated: backends.Amounts{CPUs: 16, MemoryMiB: 24, GPUs: map[string]int64{"a100": 2}}},
			{Name: "h3", CPUs: 64, MemoryMiB: 1024, GPUs: gpus},
		},
	}
	views := inventory.Views([]hpcv1alpha1.VirtualNode{{Name: "n", Partition: "main"}}, inv, nil, backends.Capabilities{Enter: true, Heterogeneous: true, History: true})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := inventory.Status(views[0], inventory.Queue{PendingJobs: 2, PendingPods: 7, RunningJobs: 1, Estimated: at})
	if len(s.Shapes) != 1 || s.Shapes[0].Count != 2 || s.Shapes[0].Resources.Cpu().Value() != 64 {
		t.Errorf("shapes %+v", s.Shapes)
	}
	if len(s.Free) != 2 || s.Free[0].Count != 1 || s.Free[1].Resources.Cpu().Value() != 48 {
		t.Errorf("free %+v", s.Free)
	}
	foreign := s.Foreign["nvidia.com/gpu"]
	if foreign.Value() != 2 || s.Foreign.Cpu().Value() != 16 || s.Foreign.Memory().Value() != 24<<20 {
		t.Errorf("foreign %+v", s.Foreign)
	}
	if s.PendingPods != 7 || s.PendingJobs != 2 || s.EstimatedStart == nil || !s.EstimatedStart.Time.Equal(at.Truncate(time.Minute)) {
		t.Errorf("queue %+v", s)
	}
	if !slices.Equal(s.Missing, []string{"StartEstimate", "Reservation"}) {
		t.Errorf("missing %v", s.Missing)
	}
	labels := inventory.Node(views[0], inventory.State{Cluster: "c", Reachable: true}).Labels
	if labels["feature.isthmus.sh/ib"] != "true" || labels["isthmus.sh/max-walltime-seconds"] != "3600" || labels["isthmus.sh/gpu-model"] != "a100" {
		t.Errorf("labels %v", labels)
	}
	if _, has := labels["feature.isthmus.sh/nvlink"]; has {
		t.Error("a feature that only one host has")
	}
	if _, has := s.Foreign[corev1.ResourcePods]; has {
		t.Error("pods are no resource of hosts")
	}
}
