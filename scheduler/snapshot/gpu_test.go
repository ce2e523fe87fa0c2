package snapshot

import (
	"reflect"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/gpushare"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// TestSharesByVolcanosNames is what each of Volcano's resources asks of a node's GPUs.
func TestSharesByVolcanosNames(t *testing.T) {
	for name, want := range map[string]gpuAsk{
		"volcano.sh/vgpu-number":            {share: &gpushare.Request{Devices: 5, MemoryPercent: 100}},
		"volcano.sh/vgpu-memory":            {share: &gpushare.Request{Devices: 1, MemoryMiB: 5}},
		"volcano.sh/vgpu-cores":             {share: &gpushare.Request{Devices: 1, Cores: 5}},
		"volcano.sh/vgpu-memory-percentage": {share: &gpushare.Request{Devices: 1, MemoryPercent: 5}},
		"volcano.sh/gpu-memory":             {share: &gpushare.Request{Devices: 1, MemoryMiB: 5}},
		"volcano.sh/gpu-number":             {whole: 5},
	} {
		if got := newGPUAsk(&ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: name, Amount: 5})}); !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v of %+v, want %+v of %+v", name, got, got.share, want, want.share)
		}
	}
}
