package inventory

import (
	"maps"
	"slices"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
)

// sharesOf is how many shares a GPU of the host has. Hosts tell the sum alone; their GPUs
// are taken to have equally many.
func sharesOf(h backends.Host) int64 {
	var devices int64
	for kind, n := range h.GPUs {
		if kind != backends.Shard {
			devices += n
		}
	}
	devices = max(1, devices)
	return (h.GPUs[backends.Shard] + devices - 1) / devices
}

// heeded is the host with what counts of the use of its GPUs: where foreign use is
// ignored, that of our own jobs alone, once it is known.
func (v *View) heeded(h backends.Host, use Use, t takings) backends.Host {
	if v.VirtualNode.ForeignUse != hpcv1alpha1.ForeignUseIgnore || use.Unsettled[h.Name] {
		return h
	}
	gpus := map[string]int64{}
	for _, a := range t.ours[h.Name] {
		for kind, n := range a.GPUs {
			gpus[kind] += n
		}
	}
	h.Allocated.GPUs, h.Shared = gpus, 0
	return h
}

// spoiled is what is free of a host's GPUs and of shares of them by number, and cannot be
// had: a GPU that is shared is given to nobody whole, and one that is given whole is not
// shared. Where the batch system does not tell how many GPUs are shared, shares are taken
// to lie as close together as they can. A host with GPUs of
// several types does not tell which of them are shared; it is taken for those that are
// first by name.
func spoiled(h backends.Host) backends.Amounts {
	shares := h.GPUs[backends.Shard]
	var devices, given int64
	kinds := slices.DeleteFunc(slices.Sorted(maps.Keys(h.GPUs)), func(kind string) bool { return kind == backends.Shard })
	for _, kind := range kinds {
		devices += h.GPUs[kind]
		given += h.Allocated.GPUs[kind]
	}
	if shares == 0 || devices == 0 {
		return backends.Amounts{}
	}
	each := max(1, shares/devices)
	shared := max(h.Shared, (h.Allocated.GPUs[backends.Shard]+each-1)/each)
	out := backends.Amounts{GPUs: map[string]int64{backends.Shard: given * each}}
	for _, kind := range kinds {
		n := min(shared, h.GPUs[kind]-min(h.GPUs[kind], h.Allocated.GPUs[kind]))
		out.GPUs[kind] = n
		shared -= n
	}
	return out
}
