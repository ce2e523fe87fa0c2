package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func drawGPUBox(t *rapid.T, node string) *gpubox.Box {
	b := &gpubox.Box{Version: gpubox.Version, Resource: gpu}
	for i := range rapid.IntRange(1, 4).Draw(t, "gpus") {
		g := gpubox.GPU{UUID: fmt.Sprintf("%s-%d", node, i), MemoryMiB: int64(rapid.IntRange(1, 8).Draw(t, "memory")), Slots: int64(rapid.IntRange(1, 4).Draw(t, "slots")),
			Mode: rapid.SampledFrom([]string{gpubox.Exclusive, gpubox.TimeSlice, gpubox.MPS, gpubox.Limited, gpubox.MIG}).Draw(t, "mode")}
		switch g.Mode {
		case gpubox.Exclusive:
			g.Slots = 0
		case gpubox.MIG:
			g.Slots = 0
			for j := range rapid.IntRange(0, 3).Draw(t, "instances") {
				g.Instances = append(g.Instances, gpubox.Instance{UUID: fmt.Sprintf("%s.%d", g.UUID, j), Resource: "nvidia.com/mig-1g"})
			}
		case gpubox.TimeSlice, gpubox.Limited:
			g.MixedTenants = rapid.Bool().Draw(t, "mixed")
		}
		if rapid.IntRange(0, 9).Draw(t, "sick") == 0 {
			g.Unhealthy = "XID 79"
		}
		for j := range b.GPUs {
			b.Links = append(b.Links, gpubox.Link{A: i, B: j, NVLinks: rapid.IntRange(0, 1).Draw(t, "nvlinks")})
		}
		b.GPUs = append(b.GPUs, g)
	}
	return b
}

func drawGPUNeeds(t *rapid.T) snapshot.ClassSpec {
	c := snapshot.ClassSpec{GPU: &snapshot.GPUSpec{Tenant: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tenant")}}
	add := func(name string, n int64) {
		c.Requests = append(c.Requests, resource.Quantity{Name: name, Amount: n})
	}
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		add(gpu, int64(rapid.IntRange(1, 3).Draw(t, "whole")))
		c.GPU.Joined = rapid.Bool().Draw(t, "joined")
	case 1:
		add(wellknown.ResourceGPUMemory, int64(rapid.IntRange(1, 4).Draw(t, "MiB")))
		add(wellknown.ResourceGPUCores, int64(rapid.IntRange(0, 60).Draw(t, "cores")))
	case 2:
		add(wellknown.ResourceVGPUNumber, int64(rapid.IntRange(1, 2).Draw(t, "number")))
		add(wellknown.ResourceVGPUMemoryPercentage, int64(rapid.IntRange(1, 60).Draw(t, "percent")))
	case 3:
		add("nvidia.com/mig-1g", int64(rapid.IntRange(1, 2).Draw(t, "instances")))
	case 4:
		add(wellknown.ResourceVolcanoGPUNumber, 1)
		add(wellknown.ResourceGPUMemory, 1)
	}
	return c
}

// checkDevices counts a node's devices over pod by pod.
func checkDevices(w *schedtest.World, n snapshot.NodeSpec) error {
	type use struct {
		memory, cores, pods int64
		whole               int
		tenants             []string
	}
	uses := map[string]*use{}
	gpus := map[string]gpubox.GPU{}
	for _, g := range n.GPUs.GPUs {
		uses[g.UUID], gpus[g.UUID] = &use{}, g
		for _, in := range g.Instances {
			uses[in.UUID] = &use{}
		}
	}
	for _, g := range w.Gangs {
		for _, p := range g.Pods {
			if p.Node != n.Name || p.Terminal() {
				continue
			}
			get := p.Needs.Requests.Get
			whole := get(gpu) + get(wellknown.ResourceVolcanoGPUNumber)
			shares, mig := get(wellknown.ResourceVGPUNumber), get("nvidia.com/mig-1g")
			if get(wellknown.ResourceGPUMemory) > 0 {
				shares = max(shares, 1)
			}
			if int64(len(p.Devices)) != whole+shares+mig {
				return fmt.Errorf("pod %s has devices %v and asks for %v", p.Name, p.Devices, p.Needs.Requests)
			}
			for i, uuid := range p.Devices {
				u := uses[uuid]
				switch {
				case u == nil || slices.Contains(p.Devices[:i], uuid):
					return fmt.Errorf("pod %s has %v", p.Name, p.Devices)
				case gpus[uuid].Unhealthy != "":
					return fmt.Errorf("pod %s has the sick %s", p.Name, uuid)
				case int64(i) < whole || mig > 0:
					u.whole++
				default:
					memory := get(wellknown.ResourceGPUMemory)
					if p := get(wellknown.ResourceVGPUMemoryPercentage); p > 0 {
						memory = (gpus[uuid].MemoryMiB*p + 99) / 100
					}
					u.memory, u.cores, u.pods = u.memory+memory, u.cores+get(wellknown.ResourceGPUCores), u.pods+1
					if !slices.Contains(u.tenants, p.Needs.GPU.Tenant) {
						u.tenants = append(u.tenants, p.Needs.GPU.Tenant)
					}
				}
			}
		}
	}
	for uuid, u := range uses {
		g, isGPU := gpus[uuid]
		switch {
		case u.whole > 1, u.whole > 0 && u.pods > 0, u.whole > 0 && isGPU && g.Mode == gpubox.MIG:
			return fmt.Errorf("%s is given whole %d times and shared by %d", uuid, u.whole, u.pods)
		case u.pods == 0:
		case !gpubox.Shares(g.Mode), u.memory > g.MemoryMiB, u.cores > 100, u.pods > g.Slots:
			return fmt.Errorf("%s in mode %s: %+v", uuid, g.Mode, *u)
		case len(u.tenants) > 1 && !g.MixedTenants:
			return fmt.Errorf("%s in mode %s has tenants %v", uuid, g.Mode, u.tenants)
		}
	}
	return nil
}

// TestNoDeviceHasMixedTenants is S12 of the reliability reference, and that no
// GPU is given twice: random boxes, gangs and ends of pods, each device counted
// over from the pods' own records after every cycle.
func TestNoDeviceHasMixedTenants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range worldsEach {
			w := schedtest.NewWorld()
			for i := range rapid.IntRange(1, 2).Draw(t, "nodes") {
				n := schedtest.Real(fmt.Sprintf("n%d", i), resource.Quantity{Name: "pods", Amount: 110})
				n.GPUs = drawGPUBox(t, n.Name)
				var mig int64
				for _, g := range n.GPUs.GPUs {
					mig += int64(len(g.Instances))
				}
				n.Allocatable = resource.MakeList(append(slices.Clone(n.Allocatable), resource.Quantity{Name: gpu, Amount: int64(len(n.GPUs.GPUs))}, resource.Quantity{Name: "nvidia.com/mig-1g", Amount: mig})...)
				w.SetNode(n)
			}
			for i := range rapid.IntRange(1, 8).Draw(t, "gangs") {
				size := rapid.IntRange(1, 3).Draw(t, "size")
				g := w.AddGang(fmt.Sprintf("g%d", i), int64(size))
				g.AddPods("w", size, drawGPUNeeds(t))
				if rapid.Bool().Draw(t, "two tasks") {
					g.AddPods("v", 1, drawGPUNeeds(t))
				}
			}
			for round := range 3 {
				p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
				w.Apply(p)
				for _, n := range w.Nodes {
					if err := checkDevices(w, n); err != nil {
						t.Fatalf("round %d: %v\n%s", round, err, p)
					}
				}
				if found := w.Snapshot().Audit(); len(found) > 0 {
					t.Fatalf("round %d: %v\n%s", round, found, p)
				}
				for _, pod := range w.Pods("") {
					if pod.Node != "" && rapid.Bool().Draw(t, "ends") {
						pod.Phase = snapshot.PodSucceeded
					}
				}
			}
		}
	})
}
