package snapshot

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// pluginsBox is 3 GPUs that Volcano's plugin hands out, each to 4 pods at most.
func pluginsBox() *gpuBox {
	wire := gpubox.Box{Version: gpubox.Version, Resource: "none", HandedOutBy: gpubox.VolcanoPlugin}
	for _, id := range []string{"GPU-a", "GPU-b", "GPU-c"} {
		wire.GPUs = append(wire.GPUs, gpubox.GPU{UUID: id, MemoryMiB: 1000, Slots: 4, Mode: gpubox.TimeSlice, MixedTenants: true})
	}
	return newGPUBox(wire)
}

func pluginsClass(scattered bool, asks ...resource.Quantity) *Class {
	c := &Class{ClassSpec: ClassSpec{Requests: resource.MakeList(asks...), GPU: &GPUSpec{Tenant: "t", Scattered: scattered}}}
	c.gpu = newGPUAsk(&c.ClassSpec)
	return c
}

// TestWhomVolcanosPluginServes says why for each pod that it would leave without a GPU.
func TestWhomVolcanosPluginServes(t *testing.T) {
	number := resource.Quantity{Name: "volcano.sh/vgpu-number", Amount: 1}
	for _, c := range []struct {
		class *Class
		want  string
	}{
		{pluginsClass(false, number), ""},
		{pluginsClass(false, number, resource.Quantity{Name: "volcano.sh/vgpu-memory", Amount: 1001}), "no GPU has room"},
		{pluginsClass(true, number), "one container"},
		{pluginsClass(false, resource.Quantity{Name: "volcano.sh/vgpu-memory", Amount: 10}), "volcano.sh/vgpu-number"},
		{pluginsClass(false, number, resource.Quantity{Name: "isthmus.sh/gpu-memory", Amount: 10}), "isthmus.sh/gpu-memory"},
		{pluginsClass(false, resource.Quantity{Name: "volcano.sh/gpu-number", Amount: 1}), "volcano.sh/gpu-number"},
	} {
		b := pluginsBox()
		s := newGPUState(b)
		why := b.why(s, c.class)
		if (c.want == "") != (why == "") || !strings.Contains(why, c.want) {
			t.Errorf("%v: %q, want %q", c.class.Requests, why, c.want)
		}
		if room := b.room(s, c.class, 9); (room > 0) != (c.want == "") {
			t.Errorf("%v: room for %d, want %q", c.class.Requests, room, c.want)
		}
	}
}

// TestVolcanosPluginIsNotOverpacked puts pods of random shares on its GPUs and takes
// them off: no GPU ever has more pods, memory or cores than it holds, and who has all
// cores is alone.
func TestVolcanosPluginIsNotOverpacked(t *testing.T) {
	full := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := pluginsBox()
		s := newGPUState(b)
		type pod struct {
			class *Class
			ids   []string
		}
		var pods []pod
		for range 60 {
			if len(pods) > 0 && r.IntN(3) == 0 {
				i := r.IntN(len(pods))
				b.release(s, pods[i].class, pods[i].ids)
				pods = append(pods[:i], pods[i+1:]...)
				continue
			}
			c := pluginsClass(false, resource.Quantity{Name: "volcano.sh/vgpu-number", Amount: 1 + r.Int64N(3)},
				resource.Quantity{Name: "volcano.sh/vgpu-memory", Amount: 100 * r.Int64N(7)},
				resource.Quantity{Name: "volcano.sh/vgpu-cores", Amount: []int64{0, 0, 30, 60, 100}[r.IntN(5)]})
			if b.room(s, c, 1) == 0 {
				full++
				continue
			}
			ids := b.pick(s, c)
			if ids == nil {
				t.Fatalf("seed %d: room but no GPU for %v", seed, c.Requests)
			}
			pods = append(pods, pod{c, ids})
			held := map[string][3]int64{}
			whole := map[string]bool{}
			for _, p := range pods {
				for _, id := range p.ids {
					memory, cores, _ := PartOf(p.class.Requests, &b.wire, id)
					h := held[id]
					held[id] = [3]int64{h[0] + 1, h[1] + memory, h[2] + cores}
					whole[id] = whole[id] || cores == 100
				}
			}
			for id, h := range held {
				if h[0] > 4 || h[1] > 1000 || h[2] > 100 || whole[id] && h[0] > 1 {
					t.Fatalf("seed %d: %s has %d pods with memory %d and cores %d", seed, id, h[0], h[1], h[2])
				}
			}
			if wrong := b.audit(s); len(wrong) > 0 {
				t.Fatalf("seed %d: %v", seed, wrong)
			}
		}
	}
	if full < 1000 {
		t.Errorf("only %d times was there no room: the test is too easy", full)
	}
}
