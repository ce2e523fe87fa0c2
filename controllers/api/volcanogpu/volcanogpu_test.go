package volcanogpu_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/volcanogpu"
)

const two = "GPU-a,10,32768,NVIDIA-Tesla V100-PCIE-32GB,true,hami-core:GPU-b,4,16384,NVIDIA-Tesla T4,false,hami-core:"

func TestRegister(t *testing.T) {
	box, err := volcanogpu.ParseRegister(two)
	if err != nil {
		t.Fatal(err)
	}
	if box.HandedOutBy != gpubox.VolcanoPlugin || len(box.GPUs) != 2 {
		t.Fatalf("box is %+v", box)
	}
	want := gpubox.GPU{UUID: "GPU-a", Model: "NVIDIA-Tesla V100-PCIE-32GB", MemoryMiB: 32768, Slots: 10, Mode: gpubox.TimeSlice, MixedTenants: true}
	if !reflect.DeepEqual(box.GPUs[0], want) {
		t.Errorf("GPU is %+v, want %+v", box.GPUs[0], want)
	}
	if box.GPUs[1].Unhealthy == "" {
		t.Error("a sick GPU is offered")
	}
	again, err := gpubox.Parse(box.Format())
	if err != nil || !reflect.DeepEqual(again, box) {
		t.Errorf("as JSON the box becomes %+v, %v", again, err)
	}
	for text, part := range map[string]string{
		strings.ReplaceAll(two, ",hami-core", ",mig"): "MIG",
		strings.ReplaceAll(two, "NVIDIA-", "MLU-"):    "type",
	} {
		box, err := volcanogpu.ParseRegister(text)
		if err != nil || !strings.Contains(box.GPUs[0].Unhealthy, part) {
			t.Errorf("%s: %+v, %v: no word of %q", text, box, err, part)
		}
	}
}

func TestRegisterThatCannotBeRead(t *testing.T) {
	for text, part := range map[string]string{
		":":                                           "must have uuid",
		"GPU-a,10,32768,NVIDIA,true:":                 "must have uuid, count, memory, type, health and mode",
		"GPU-a,x,32768,NVIDIA,true,hami-core:":        `count is "x"`,
		"GPU-a,0,32768,NVIDIA,true,hami-core:":        `count is "0"`,
		"GPU-a,10,-1,NVIDIA,true,hami-core:":          `memory is "-1"`,
		"GPU-a,10,99999999999,NVIDIA,true,hami-core:": `memory is "99999999999"`,
		"GPU-a,10,1,NVIDIA,well,hami-core:":           `health is "well"`,
		",10,1,NVIDIA,true,hami-core:":                "uuid",
		"G;,10,1,NVIDIA,true,hami-core:":              "uuid",
		"GPU-a,10,1,NVIDIA,true,hami-core:GPU-a,10,1,NVIDIA,true,hami-core:": "twice",
		strings.Repeat("x", 1<<20): "bytes",
		"GPU-a,10,1,NVIDIA,true,hami-core:not a device:GPU-b,10,1,NVIDIA,true,hami-core:":  "GPU 1",
		strings.ReplaceAll(strings.Repeat("GPU,1,1,NVIDIA,true,x:", 65), "GPU,", "GPU-é,"): "",
	} {
		_, err := volcanogpu.ParseRegister(text)
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), volcanogpu.Register) {
			t.Errorf("%.60s: error %v does not say %q", text, err, part)
		}
	}
}

// TestPodsDevices holds what is written to the form that the plugin reads: as Volcano's
// own scheduler writes it for a pod whose first container asks.
func TestPodsDevices(t *testing.T) {
	parts := []volcanogpu.Device{{UUID: "GPU-a", Memory: 1000, Cores: 30}, {UUID: "GPU-b", Memory: 1000}}
	for container, want := range map[int]string{
		0: "GPU-a,NVIDIA,1000,30:GPU-b,NVIDIA,1000,0:",
		2: ";;GPU-a,NVIDIA,1000,30:GPU-b,NVIDIA,1000,0:",
	} {
		got := volcanogpu.Format(container, parts)
		if got != want {
			t.Errorf("container %d: %q, want %q", container, got, want)
		}
		if ids := volcanogpu.UUIDs(got); !reflect.DeepEqual(ids, []string{"GPU-a", "GPU-b"}) {
			t.Errorf("container %d is read as %q", container, ids)
		}
	}
	if ids := volcanogpu.UUIDs("GPU-a,NVIDIA,10,0:;GPU-b[1g-0],NVIDIA,10,0:;junk:,,,:"); !reflect.DeepEqual(ids, []string{"GPU-a", "GPU-b"}) {
		t.Errorf("Volcano's own are read as %q", ids)
	}
}

func FuzzRegister(f *testing.F) {
	f.Add(two)
	f.Add("::,,,,,:")
	f.Fuzz(func(t *testing.T, text string) {
		volcanogpu.UUIDs(text)
		box, err := volcanogpu.ParseRegister(text)
		if err != nil {
			if !strings.Contains(err.Error(), volcanogpu.Register) {
				t.Errorf("error %v names no annotation", err)
			}
			return
		}
		if err := box.Check(); err != nil {
			t.Errorf("%q gives a box that is none: %v", text, err)
		}
		var parts []volcanogpu.Device
		var ids []string
		for _, g := range box.GPUs {
			parts, ids = append(parts, volcanogpu.Device{UUID: g.UUID, Memory: g.MemoryMiB}), append(ids, g.UUID)
		}
		if got := volcanogpu.UUIDs(volcanogpu.Format(1, parts)); !reflect.DeepEqual(got, ids) {
			t.Errorf("%q: UUIDs %q come back as %q", text, ids, got)
		}
	})
}
