package inventory_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
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
	if !slices.Equal(s.Missing, []string{"StartEstimate", "Reservation", "Reserve", "ExcludeHosts", "Licenses", "Switches", "Shards", "After", "OneHost"}) {
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

// TestLimited: what the batch system lacks is told in a condition of the node, in
// words, one for each.
func TestLimited(t *testing.T) {
	whole := backends.Capabilities{History: true, Heterogeneous: true, StartEstimate: true, Enter: true, Reservation: true, Reserve: true, ExcludeHosts: true, Licenses: true, Switches: true, Shards: true, After: true}
	for name, tc := range map[string]struct {
		without func(*backends.Capabilities)
		words   []string // none: nothing is missing
	}{
		"whole":          {func(*backends.Capabilities) {}, nil},
		"no history":     {func(c *backends.Capabilities) { c.History = false }, []string{"known for minutes only"}},
		"plain jobs":     {func(c *backends.Capabilities) { c.Heterogeneous = false }, []string{"what the largest asks for"}},
		"no estimates":   {func(c *backends.Capabilities) { c.StartEstimate = false }, []string{"not foretold"}},
		"no streams":     {func(c *backends.Capabilities) { c.Enter = false }, []string{"kubectl exec"}},
		"no reservation": {func(c *backends.Capabilities) { c.Reservation = false }, []string{"reservations"}},
		"makes none":     {func(c *backends.Capabilities) { c.Reserve = false }, []string{"Reservation objects"}},
		"no licences":    {func(c *backends.Capabilities) { c.Licenses = false }, []string{"licences cannot"}},
		"no switches":    {func(c *backends.Capabilities) { c.Switches = false }, []string{"hosts at one switch"}},
		"no shards":      {func(c *backends.Capabilities) { c.Shards = false }, []string{"shares of GPUs"}},
		"no order":       {func(c *backends.Capabilities) { c.After = false }, []string{"no job waits there"}},
		"one host":       {func(c *backends.Capabilities) { c.ExcludeHosts, c.OneHost = false, true }, []string{"several hosts"}},
		"any host":       {func(c *backends.Capabilities) { c.ExcludeHosts = false }, []string{"several hosts", "a single one"}},
		"nothing": {func(c *backends.Capabilities) { *c = backends.Capabilities{} }, []string{
			"known for minutes only", "what the largest asks for", "not foretold", "kubectl exec", "reservations", "Reservation objects", "licences cannot", "hosts at one switch", "shares of GPUs", "no job waits there", "several hosts", "a single one",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			caps := whole
			tc.without(&caps)
			v := inventory.Views(gpuNode, clusterOf(host("a", true, 0, 0)), nil, caps)[0]
			said := map[corev1.NodeConditionType]corev1.NodeCondition{}
			for _, c := range inventory.Node(v, inventory.State{Cluster: "c", Reachable: true}).Status.Conditions {
				said[c.Type] = c
			}
			got := said[wellknown.NodeLimited]
			if want := map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}[len(tc.words) > 0]; got.Status != want {
				t.Errorf("the condition is %+v, want %s", got, want)
			}
			for _, w := range tc.words {
				if !strings.Contains(got.Message, w) {
					t.Errorf("%q does not say %q", got.Message, w)
				}
			}
			if n := strings.Count(got.Message, ";"); len(tc.words) > 0 && n != len(tc.words)-1 {
				t.Errorf("%q tells of %d things, want %d", got.Message, n+1, len(tc.words))
			}
			if len(v.Missing) != len(tc.words) {
				t.Errorf("missing %v", v.Missing)
			}
		})
	}
}

// TestWait: what is submitted now waits as long as the last that waits, told in steps.
func TestWait(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for last, want := range map[time.Duration]time.Duration{
		-time.Hour: 0, 0: 0, time.Second: time.Minute, time.Minute: time.Minute, 10 * time.Minute: 10 * time.Minute,
		10*time.Minute + 1: 20 * time.Minute, 20 * time.Minute: 20 * time.Minute, 61 * time.Minute: 70 * time.Minute,
	} {
		if got := (inventory.Queue{Last: now.Add(last)}).Wait(now); got != want {
			t.Errorf("the last starts in %s: %s, want %s", last, got, want)
		}
	}
	if got := (inventory.Queue{PendingJobs: 3}).Wait(now); got != 0 {
		t.Errorf("nobody knows when: %s", got)
	}
	view := inventory.View{VirtualNode: hpcv1alpha1.VirtualNode{Name: "n"}}
	if got, has := inventory.Node(view, inventory.State{}).Annotations[wellknown.QueueWait]; has {
		t.Errorf("a batch system that does not estimate says %q", got)
	}
	for waits, want := range map[time.Duration]string{0: "0", time.Hour: "3600"} {
		n := inventory.Node(view, inventory.State{Waits: map[string]time.Duration{"n": waits}})
		if got := n.Annotations[wellknown.QueueWait]; got != want {
			t.Errorf("the node says %q, want %s", got, want)
		}
	}
}
