package snapshot

import (
	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/gpushare"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// pluginOffers is boxOffers of GPUs that Volcano's device plugin hands out. How many
// shares there are is kubelet's to say: none while the plugin is away.
func pluginOffers(wire *gpubox.Box) resource.List {
	var memory, devices int64
	for _, g := range wire.GPUs {
		memory, devices = resource.Add(memory, g.MemoryMiB), devices+1
	}
	return resource.MakeList(
		resource.Quantity{Name: wellknown.ResourceVGPUMemory, Amount: memory},
		resource.Quantity{Name: wellknown.ResourceVGPUCores, Amount: gpushare.AllCores * devices},
		resource.Quantity{Name: wellknown.ResourceVGPUMemoryPercentage, Amount: 100 * devices},
	)
}

// othersNames are what Volcano's vgpu device plugin does not hand out.
var othersNames = []string{
	wellknown.ResourceGPUMemory, wellknown.ResourceGPUCores, wellknown.ResourceVolcanoGPUMemory, wellknown.ResourceVolcanoGPUNumber,
}

// unserved says why whoever hands out the GPUs of the box cannot serve pods of the class,
// "" when it can.
func (b *gpuBox) unserved(c *Class) string {
	if b.wire.HandedOutBy != gpubox.VolcanoPlugin || c.gpu.share == nil && c.gpu.whole == 0 {
		return ""
	}
	for _, name := range othersNames {
		if c.Requests.Get(name) > 0 {
			return "Volcano's device plugin there does not hand out " + name
		}
	}
	switch {
	case c.Requests.Get(wellknown.ResourceVGPUNumber) == 0:
		return "Volcano's device plugin there serves who asks for " + wellknown.ResourceVGPUNumber
	case c.GPU != nil && c.GPU.Scattered:
		return "Volcano's device plugin there serves pods of which one container, and no init container, asks for GPUs"
	}
	return ""
}

// PartOf is the memory that a pod of the class takes of one of the node's GPUs, and the
// cores; false when it shares none or the GPU is not there.
func PartOf(requests resource.List, box *gpubox.Box, uuid string) (memory, cores int64, ok bool) {
	spec := ClassSpec{Requests: requests}
	ask := newGPUAsk(&spec)
	if box == nil || ask.share == nil {
		return 0, 0, false
	}
	for _, g := range box.GPUs {
		if g.UUID == uuid {
			return ask.share.Memory(gpushare.Device{MemoryMiB: g.MemoryMiB}), ask.share.Cores, true
		}
	}
	return 0, 0, false
}
