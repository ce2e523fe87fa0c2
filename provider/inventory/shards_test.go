package inventory_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
)

// TestShards: shares of GPUs are a resource of their own, and each GPU is offered whole or
// in shares, not both, once it is in use.
func TestShards(t *testing.T) {
	const shard = backends.Shard
	whole := map[string]int64{"a100": 4, shard: 32}
	ours := func(gpus map[string]int64) inventory.Use {
		return inventory.Use{ByHost: map[string]backends.Amounts{"a": {GPUs: gpus}}}
	}
	for name, tc := range map[string]struct {
		has, allocated map[string]int64
		shared         int64
		use            inventory.Use
		gpus, shards   int64
	}{
		"idle":                    {whole, nil, 0, inventory.Use{}, 4, 32},
		"another's GPU":           {whole, map[string]int64{"a100": 1}, 0, inventory.Use{}, 3, 24},
		"another's shares":        {whole, map[string]int64{shard: 3}, 0, inventory.Use{}, 3, 29},
		"on two GPUs":             {whole, map[string]int64{shard: 9}, 0, inventory.Use{}, 2, 23},
		"both":                    {whole, map[string]int64{"a100": 2, shard: 16}, 0, inventory.Use{}, 0, 0},
		"our GPU":                 {whole, map[string]int64{"a100": 1}, 0, ours(map[string]int64{"a100": 1}), 4, 24},
		"our shares":              {whole, map[string]int64{shard: 3}, 0, ours(map[string]int64{shard: 3}), 3, 32},
		"more held than there is": {whole, map[string]int64{"a100": 9, shard: 99}, 0, inventory.Use{}, 0, 0},
		"fewer shares than GPUs":  {map[string]int64{"a100": 4, shard: 2}, map[string]int64{shard: 1}, 0, inventory.Use{}, 3, 1},
		"shares unknown":          {whole, map[string]int64{shard: 2}, 2, ours(map[string]int64{shard: 5}), 2, 32},
		"two types":               {map[string]int64{"a100": 1, "h100": 3, shard: 16}, map[string]int64{shard: 5}, 0, inventory.Use{}, 2, 11},
	} {
		h := host("a", true, 0, 0)
		h.GPUs, h.Allocated.GPUs, h.Shared = tc.has, tc.allocated, tc.shared
		v := inventory.Views(gpuNode, clusterOf(h), map[string]inventory.Use{"c-gpu": tc.use}, backends.Capabilities{Shards: true})[0]
		for resource, want := range map[corev1.ResourceName]int64{"nvidia.com/gpu": tc.gpus, "isthmus.sh/gpu-shard": tc.shards} {
			if n := v.Allocatable[resource]; n.Value() != want {
				t.Errorf("%s: %s of %s are offered, want %d", name, n.String(), resource, want)
			}
		}
		most := map[int64]int64{32: 8, 16: 4, 2: 1}[tc.has[shard]]
		if v.Shards != most || slices.Contains(v.GPUTypes, shard) {
			t.Errorf("%s: at most %d shares of a GPU beside the types %q", name, v.Shards, v.GPUTypes)
		}
		if labels := inventory.Node(v, inventory.State{}).Labels; labels["isthmus.sh/gpu-model"] == shard || name == "idle" && labels["isthmus.sh/gpu-model"] != "a100" {
			t.Errorf("%s: the model is %q", name, labels["isthmus.sh/gpu-model"])
		}
		v = inventory.Views(gpuNode, clusterOf(h), map[string]inventory.Use{"c-gpu": tc.use}, backends.Capabilities{})[0]
		if _, has := v.Capacity["isthmus.sh/gpu-shard"]; has {
			t.Errorf("%s: shares are offered where they cannot be asked for", name)
		}
		if n := v.Allocatable["nvidia.com/gpu"]; n.Value() != tc.gpus {
			t.Errorf("%s: %s GPUs are offered where shares cannot be asked for, want %d", name, n.String(), tc.gpus)
		}
	}
}

// Where the use of others is ignored, what they have of GPUs and of shares is offered too.
func TestSharesOthersHave(t *testing.T) {
	const shard = backends.Shard
	for name, tc := range map[string]struct {
		allocated    map[string]int64
		shared       int64
		use          inventory.Use
		gpus, shares int64
	}{
		"all GPUs":            {map[string]int64{"a100": 4}, 0, inventory.Use{}, 4, 32},
		"shares of all":       {map[string]int64{shard: 32}, 4, inventory.Use{}, 4, 32},
		"the rest of ours":    {map[string]int64{"a100": 3, shard: 8}, 1, inventory.Use{ByHost: map[string]backends.Amounts{"a": {GPUs: map[string]int64{"a100": 1}}}}, 4, 24},
		"not known yet whose": {map[string]int64{"a100": 4}, 0, inventory.Use{Unsettled: map[string]bool{"a": true}}, 4, 0},
	} {
		h := host("a", true, 0, 0)
		h.GPUs, h.Allocated.GPUs, h.Shared = map[string]int64{"a100": 4, shard: 32}, tc.allocated, tc.shared
		v := inventory.Views(busyNode, clusterOf(h), map[string]inventory.Use{"c-gpu": tc.use}, backends.Capabilities{Shards: true})[0]
		for resource, want := range map[corev1.ResourceName]int64{"nvidia.com/gpu": tc.gpus, "isthmus.sh/gpu-shard": tc.shares} {
			if n := v.Allocatable[resource]; n.Value() != want {
				t.Errorf("%s: %s of %s are offered, want %d", name, n.String(), resource, want)
			}
		}
	}
}
