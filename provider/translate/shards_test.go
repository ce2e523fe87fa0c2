package translate_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"

	corev1 "k8s.io/api/core/v1"
)

const shard = "isthmus.sh/gpu-shard"

// sharing is a gang of n members that ask for shares of a GPU, after one that does not.
func sharing(n int) translate.Input {
	pods := []*corev1.Pod{newPod(0)}
	for i := range n {
		p := newPod(i + 1)
		p.Spec.Containers[0].Resources.Limits = list("cpu", "1", shard, "3")
		pods = append(pods, p)
	}
	in := input(pods...)
	in.Capabilities.Heterogeneous, in.Capabilities.Shards = true, true
	in.Partition.Name, in.GPUTypes, in.Shards = "gpu", []string{"a100"}, 8
	for i := range n + 1 {
		in.Partition.Hosts = append(in.Partition.Hosts, fmt.Sprintf("h%d", i))
	}
	return in
}

// TestShards: batch systems count shares of GPUs by host, so that each pod with shares is
// a component of its own, which the runner takes for one without GPUs of its own.
func TestShards(t *testing.T) {
	if backends.Shard != manifest.Shard {
		t.Fatalf("%q and %q", backends.Shard, manifest.Shard)
	}
	out, err := translate.Gang(sharing(2))
	if err != nil {
		t.Fatal(err)
	}
	var shares []int64
	for i, c := range out.Spec.Components {
		if c.Tasks != 1 {
			t.Errorf("component %d has %d tasks", i, c.Tasks)
		}
		shares = append(shares, c.GPUs[backends.Shard])
		if m := out.Gang.Components[i]; m.GPUs[manifest.Shard] != c.GPUs[backends.Shard] || m.Devices() != 0 {
			t.Errorf("the runner is told of %+v", m)
		}
	}
	if !slices.Equal(shares, []int64{0, 3, 3}) {
		t.Errorf("shares by component %v", shares)
	}
}

func TestShardsRefused(t *testing.T) {
	limits := "spec.containers[0].resources.limits[" + shard + "]"
	for name, tc := range map[string]struct {
		change func(*translate.Input)
		field  string // "" is of no single pod
	}{
		"not served":            {func(in *translate.Input) { in.Capabilities.Shards = false }, limits},
		"none there":            {func(in *translate.Input) { in.Shards = 0 }, limits},
		"more than one GPU has": {func(in *translate.Input) { in.Shards = 2 }, "spec.containers[*].resources"},
		"beside GPUs": {func(in *translate.Input) {
			in.Members[1].Pod.Spec.Containers[0].Resources.Limits["nvidia.com/gpu"] = list("x", "1")["x"]
		}, "spec.containers[*].resources"},
		"too few hosts": {func(in *translate.Input) { in.Partition.Hosts = in.Partition.Hosts[:2] }, ""},
		"one component": {func(in *translate.Input) { in.Capabilities.Heterogeneous = false }, ""},
		"too many": {func(in *translate.Input) {
			many := sharing(backends.MaxComponents)
			*in = many
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := sharing(2)
			tc.change(&in)
			_, err := translate.Gang(in)
			wantRefusal(t, err, tc.field, true)
		})
	}
}
