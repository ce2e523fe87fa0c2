package snapshot

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/gpushare"
	"github.com/isthmus-hpc/isthmus/scheduler/gputopology"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// GPUSpec is what a pod says about its GPUs besides how many.
type GPUSpec struct {
	// Joined says that NVLinks have to join the pod's whole GPUs.
	Joined bool `json:"joined,omitempty"`
	// Models and NotModels are parts of model names, in lower case.
	Models    []string `json:"models,omitempty"`
	NotModels []string `json:"notModels,omitempty"`
	UUIDs     []string `json:"uuids,omitempty"`
	NotUUIDs  []string `json:"notUUIDs,omitempty"`
	// Modes are the modes of sharing that will do; empty is any.
	Modes []string `json:"modes,omitempty"`
	// Scattered says that several containers ask for GPUs, or one that starts before others.
	Scattered bool `json:"scattered,omitempty"`
	// Tenant is whose the pod is, where it shares GPUs.
	Tenant string `json:"tenant,omitempty"`
}

// allows reports whether one GPU will do.
func (s *GPUSpec) allows(g gpubox.GPU) bool {
	if s == nil {
		return true
	}
	model := strings.ToLower(g.Model)
	is := func(part string) bool { return strings.Contains(model, part) }
	return (len(s.Models) == 0 || slices.ContainsFunc(s.Models, is)) && !slices.ContainsFunc(s.NotModels, is) &&
		(len(s.UUIDs) == 0 || slices.Contains(s.UUIDs, g.UUID)) && !slices.Contains(s.NotUUIDs, g.UUID)
}

// gpuAsk is what a class asks of GPUs that nodes describe, nil for nothing.
type gpuAsk struct {
	share *gpushare.Request
	mig   resource.List // MIG instances by resource
	whole int64         // besides what is asked by the box's own name
}

// migPrefix starts the names of MIG instances as resources.
const migPrefix = "nvidia.com/mig-"

// shareNames are the resources that only nodes with a described box offer.
var shareNames = []string{
	wellknown.ResourceGPUMemory, wellknown.ResourceGPUCores,
	wellknown.ResourceVGPUNumber, wellknown.ResourceVGPUMemory, wellknown.ResourceVGPUCores, wellknown.ResourceVGPUMemoryPercentage,
	wellknown.ResourceVolcanoGPUMemory, wellknown.ResourceVolcanoGPUNumber,
}

// SharesGPUs reports whether requests ask for parts of GPUs.
func SharesGPUs(requests resource.List) bool {
	return slices.ContainsFunc(requests, func(q resource.Quantity) bool {
		return q.Amount > 0 && q.Name != wellknown.ResourceVolcanoGPUNumber && slices.Contains(shareNames, q.Name)
	})
}

// IsGPU reports whether a resource is GPUs, or parts of them, in any form.
func IsGPU(name string) bool {
	return strings.Contains(name, "gpu") || strings.HasPrefix(name, migPrefix)
}

// AsksGPUs reports whether the class asks for GPUs in any form.
func (c *Class) AsksGPUs() bool {
	return slices.ContainsFunc(c.Requests, func(q resource.Quantity) bool { return q.Amount > 0 && IsGPU(q.Name) })
}

func newGPUAsk(c *ClassSpec) *gpuAsk {
	a := &gpuAsk{}
	get := c.Requests.Get
	memory := resource.Add(resource.Add(get(wellknown.ResourceGPUMemory), get(wellknown.ResourceVGPUMemory)), get(wellknown.ResourceVolcanoGPUMemory))
	cores := resource.Add(get(wellknown.ResourceGPUCores), get(wellknown.ResourceVGPUCores))
	percent, number := get(wellknown.ResourceVGPUMemoryPercentage), get(wellknown.ResourceVGPUNumber)
	if memory > 0 || cores > 0 || percent > 0 || number > 0 {
		a.share = &gpushare.Request{Devices: max(number, 1), MemoryMiB: memory, MemoryPercent: percent, Cores: cores}
		if memory == 0 && percent == 0 && number > 0 {
			a.share.MemoryPercent = 100 // as in Volcano: a number alone is all of the memory
		}
		if c.GPU != nil {
			a.share.Tenant, a.share.Modes = c.GPU.Tenant, c.GPU.Modes
		}
	}
	a.whole = get(wellknown.ResourceVolcanoGPUNumber)
	for _, q := range c.Requests {
		if strings.HasPrefix(q.Name, migPrefix) && q.Amount > 0 {
			a.mig = append(a.mig, q)
		}
	}
	return a
}

// gpuBox is a node's GPUs made ready.
type gpuBox struct {
	wire      gpubox.Box
	links     *gputopology.Box
	devices   []gpushare.Device
	index     map[string]int // by UUID
	instances []gpuInstance
	instance  map[string]int // by UUID
	usable    gputopology.Set
}

type gpuInstance struct {
	uuid, resource string
	gpu            int
	usable         bool
}

func newGPUBox(wire gpubox.Box) *gpuBox {
	b := &gpuBox{wire: wire, links: gputopology.New(wire), index: map[string]int{}, instance: map[string]int{}}
	for i, g := range wire.GPUs {
		b.index[g.UUID] = i
		ok := g.Unhealthy == ""
		b.devices = append(b.devices, gpushare.Device{MemoryMiB: g.MemoryMiB, Slots: g.Slots, Mode: g.Mode, Mixed: g.MixedTenants, Alone: wire.HandedOutBy == gpubox.VolcanoPlugin, Usable: ok})
		if ok && g.Mode != gpubox.MIG {
			b.usable |= 1 << i
		}
		for _, in := range g.Instances {
			b.instance[in.UUID] = len(b.instances)
			b.instances = append(b.instances, gpuInstance{uuid: in.UUID, resource: in.Resource, gpu: i, usable: ok})
		}
	}
	return b
}

// offers is what a box adds to what the node tells: upper bounds, which the
// ledger of devices narrows down.
func boxOffers(wire *gpubox.Box) resource.List {
	if wire == nil {
		return nil
	}
	if wire.HandedOutBy == gpubox.VolcanoPlugin {
		return pluginOffers(wire)
	}
	var memory, slots, devices, whole int64
	for _, g := range wire.GPUs {
		if gpubox.Shares(g.Mode) {
			memory, slots, devices = resource.Add(memory, g.MemoryMiB), resource.Add(slots, g.Slots), devices+1
		}
		if g.Mode != gpubox.MIG {
			whole++
		}
	}
	return resource.MakeList(
		resource.Quantity{Name: wellknown.ResourceGPUMemory, Amount: memory},
		resource.Quantity{Name: wellknown.ResourceVGPUMemory, Amount: memory},
		resource.Quantity{Name: wellknown.ResourceVolcanoGPUMemory, Amount: memory},
		resource.Quantity{Name: wellknown.ResourceGPUCores, Amount: gpushare.AllCores * devices},
		resource.Quantity{Name: wellknown.ResourceVGPUCores, Amount: gpushare.AllCores * devices},
		resource.Quantity{Name: wellknown.ResourceVGPUMemoryPercentage, Amount: 100 * devices},
		resource.Quantity{Name: wellknown.ResourceVGPUNumber, Amount: slots},
		resource.Quantity{Name: wellknown.ResourceVolcanoGPUNumber, Amount: whole},
	)
}

// gpuState is who is on which GPU at one point of a transaction.
type gpuState struct {
	loads []gpushare.Load
	whole []int   // pods that have the GPU for themselves: one, but facts are facts
	mig   []int64 // pods on each instance
	// unknown counts whole GPUs of pods that do not say which they have.
	unknown int64
}

func newGPUState(b *gpuBox) *gpuState {
	return &gpuState{loads: make([]gpushare.Load, len(b.devices)), whole: make([]int, len(b.devices)), mig: make([]int64, len(b.instances))}
}

func (s *gpuState) clone() *gpuState {
	if s == nil {
		return nil
	}
	return &gpuState{loads: slices.Clone(s.loads), whole: slices.Clone(s.whole), mig: slices.Clone(s.mig), unknown: s.unknown}
}

// wholeOf is how many whole GPUs of this box a pod of the class asks for.
func (b *gpuBox) wholeOf(c *Class) int64 {
	return resource.Add(c.Requests.Get(b.wire.Resource), c.gpu.whole)
}

// concerns reports whether the class asks for any of the box's GPUs.
func (b *gpuBox) concerns(c *Class) bool {
	return c.gpu.share != nil || len(c.gpu.mig) > 0 || b.wholeOf(c) > 0
}

// free is the GPUs that nobody is on and that the class may have whole.
func (b *gpuBox) free(s *gpuState, c *Class) gputopology.Set {
	var out gputopology.Set
	for i := range b.devices {
		if b.usable.Has(i) && s.loads[i].Empty() && c.GPU.allows(b.wire.GPUs[i]) {
			out |= 1 << i
		}
	}
	return out
}

// shareable is the devices with those that the class may not have made unusable.
func (b *gpuBox) shareable(c *Class) []gpushare.Device {
	if c.GPU == nil || len(c.GPU.Models)+len(c.GPU.NotModels)+len(c.GPU.UUIDs)+len(c.GPU.NotUUIDs) == 0 {
		return b.devices
	}
	out := slices.Clone(b.devices)
	for i := range out {
		out[i].Usable = out[i].Usable && c.GPU.allows(b.wire.GPUs[i])
	}
	return out
}

// room is how many pods of the class find GPUs, at most limit.
func (b *gpuBox) room(s *gpuState, c *Class, limit int64) int64 {
	if b.unserved(c) != "" {
		return 0
	}
	n := limit
	kinds := 0
	if whole := b.wholeOf(c); whole > 0 {
		kinds++
		n = min(n, b.wholeRoom(s, c, whole, n))
	}
	if c.gpu.share != nil && n > 0 {
		kinds++
		n = min(n, gpushare.Total(b.shareable(c), s.loads, *c.gpu.share, n))
	}
	for _, q := range c.gpu.mig {
		var free int64
		for i, in := range b.instances {
			if in.usable && in.resource == q.Name && s.mig[i] == 0 && c.GPU.allows(b.wire.GPUs[in.gpu]) {
				free++
			}
		}
		n = min(n, free/q.Amount)
	}
	if kinds > 1 && n > 0 { // whole GPUs and shares compete for the same devices
		try := s.clone()
		for i := range n {
			if b.pick(try, c) == nil {
				return i
			}
		}
	}
	return n
}

func (b *gpuBox) wholeRoom(s *gpuState, c *Class, whole, limit int64) int64 {
	free := b.free(s, c)
	n := min(limit, max(int64(free.Len())-s.unknown, 0)/whole)
	if c.GPU == nil || !c.GPU.Joined || whole == 1 {
		return n
	}
	for i := range n {
		set, ok := b.links.Best(free, int(whole), true)
		if !ok {
			return i
		}
		free &^= set
	}
	return n
}

// why says why no pod of the class finds its GPUs now, "" when one does.
func (b *gpuBox) why(s *gpuState, c *Class) string {
	if why := b.unserved(c); why != "" {
		return why
	}
	if b.room(s, c, 1) > 0 {
		return ""
	}
	whole := b.wholeOf(c)
	free := b.free(s, c)
	switch {
	case whole > 0 && int64(free.Len())-s.unknown < whole:
		return "too few free GPUs that are healthy and of the kind asked for"
	case whole > 1 && c.GPU != nil && c.GPU.Joined && b.wholeRoom(s, c, whole, 1) == 0:
		return "its free GPUs are not joined by NVLinks"
	case len(c.gpu.mig) > 0:
		return "too few free MIG instances"
	}
	return "no GPU has room for the share with the tenants and in the mode that it has"
}

// pick gives one pod its GPUs and returns their UUIDs; nil when it finds none. A
// class that asks for none gets an empty list.
func (b *gpuBox) pick(s *gpuState, c *Class) []string {
	out := []string{}
	if whole := b.wholeOf(c); whole > 0 {
		if whole > gpubox.MaxGPUs {
			return nil
		}
		set, ok := b.links.Best(b.free(s, c), int(whole), c.GPU != nil && c.GPU.Joined && whole > 1)
		if !ok {
			return nil
		}
		for _, i := range set.Members() {
			out = append(out, b.wire.GPUs[i].UUID)
		}
		b.hold(s, c, out)
	}
	if c.gpu.share != nil {
		got := gpushare.Pick(b.shareable(c), s.loads, *c.gpu.share)
		if got == nil {
			return nil
		}
		for _, i := range got {
			s.loads[i] = gpushare.Add(b.devices[i], s.loads[i], *c.gpu.share)
			out = append(out, b.wire.GPUs[i].UUID)
		}
	}
	for _, q := range c.gpu.mig {
		got := b.pickInstances(s, c, q)
		if got == nil {
			return nil
		}
		out = append(out, got...)
	}
	return out
}

// pickInstances takes MIG instances where the fewest are left, so that whole
// GPUs stay free to be parted anew.
func (b *gpuBox) pickInstances(s *gpuState, c *Class, q resource.Quantity) []string {
	left := make([]int, len(b.devices))
	var free []int
	for i, in := range b.instances {
		if s.mig[i] > 0 {
			continue
		}
		left[in.gpu]++
		if in.usable && in.resource == q.Name && c.GPU.allows(b.wire.GPUs[in.gpu]) {
			free = append(free, i)
		}
	}
	if int64(len(free)) < q.Amount {
		return nil
	}
	slices.SortStableFunc(free, func(x, y int) int { return left[b.instances[x].gpu] - left[b.instances[y].gpu] })
	out := make([]string, 0, q.Amount)
	for _, i := range free[:q.Amount] {
		s.mig[i]++
		out = append(out, b.instances[i].uuid)
	}
	return out
}

// hold counts a pod that has the named GPUs, without asking whether that can be.
func (b *gpuBox) hold(s *gpuState, c *Class, uuids []string) { b.count(s, c, uuids, 1) }

// release undoes hold.
func (b *gpuBox) release(s *gpuState, c *Class, uuids []string) { b.count(s, c, uuids, -1) }

// count adds a pod to, or takes it off, the GPUs it names: the first of them are
// its whole ones, others its shares. Whole GPUs that it does not name are counted
// as such; a share that it does not name is counted where it would be put now.
func (b *gpuBox) count(s *gpuState, c *Class, uuids []string, sign int) {
	whole := b.wholeOf(c)
	shared := int64(0)
	if c.gpu.share != nil {
		shared = c.gpu.share.Devices
	}
	for _, u := range uuids {
		if i, ok := b.instance[u]; ok {
			if len(c.gpu.mig) > 0 {
				s.mig[i] += int64(sign)
			}
			continue
		}
		i, ok := b.index[u]
		switch {
		case !ok:
		case whole > 0:
			whole--
			s.whole[i] += sign
			s.loads[i].Whole = s.whole[i] > 0
		case shared > 0 && sign > 0:
			shared--
			s.loads[i] = gpushare.Add(b.devices[i], s.loads[i], *c.gpu.share)
		case shared > 0:
			shared--
			s.loads[i] = gpushare.Sub(b.devices[i], s.loads[i], *c.gpu.share)
		}
	}
	s.unknown = max(s.unknown+int64(sign)*whole, 0)
	if shared > 0 && sign > 0 {
		for _, i := range gpushare.Pick(b.devices, s.loads, gpushare.Request{Devices: shared, MemoryMiB: c.gpu.share.MemoryMiB, MemoryPercent: c.gpu.share.MemoryPercent, Cores: c.gpu.share.Cores, Tenant: c.gpu.share.Tenant}) {
			s.loads[i] = gpushare.Add(b.devices[i], s.loads[i], *c.gpu.share)
		}
	}
}

// audit tells what is wrong with the devices of a box.
func (b *gpuBox) audit(s *gpuState) []string {
	var out []string
	for i, d := range b.devices {
		l, uuid := s.loads[i], b.wire.GPUs[i].UUID
		switch {
		case s.whole[i] > 1:
			out = append(out, "GPU "+uuid+" is given whole to several pods")
		case s.whole[i] > 0 && l.Pods > 0:
			out = append(out, "GPU "+uuid+" is given whole to a pod and shared by others")
		case l.MemoryMiB > d.MemoryMiB && l.Pods > 0, l.Cores > gpushare.AllCores, l.Pods > d.Slots && gpubox.Shares(d.Mode):
			out = append(out, "GPU "+uuid+" is shared by more than it holds")
		case l.Tenant == gpushare.Many && !d.Mixed:
			out = append(out, "GPU "+uuid+" is shared by several tenants against its mode")
		}
	}
	for i, n := range s.mig {
		if n > 1 {
			out = append(out, "MIG instance "+b.instances[i].uuid+" is given to several pods")
		}
	}
	return out
}
