package inventory

import (
	"maps"
	"slices"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// promises says, by partition and host, what our jobs that wait for a partition
// are about to take of hosts that another partition of ours has as well: its
// nodes must not offer it again. A job is placed on what is free now, on hosts
// that nobody shares first; one that does not fit has been promised nothing.
func promises(nodes []hpcv1alpha1.VirtualNode, usable [][]backends.Host, use map[string]Use, caps backends.Capabilities) map[string]map[string]backends.Amounts {
	hosts := map[string]map[string]backends.Host{} // by partition
	for i, n := range nodes {
		if hosts[n.Partition] == nil {
			hosts[n.Partition] = map[string]backends.Host{}
		}
		for _, h := range usable[i] {
			hosts[n.Partition][h.Name] = h
		}
	}
	partitions := map[string]int{} // of a host
	for _, has := range hosts {
		for name := range has {
			partitions[name]++
		}
	}
	out := map[string]map[string]backends.Amounts{}
	for partition, has := range hosts {
		var own, shared []packing.Host
		for _, name := range slices.Sorted(maps.Keys(has)) {
			h := packing.Host{Name: name, Free: left(has[name])}
			if partitions[name] > 1 {
				shared = append(shared, h)
			} else {
				own = append(own, h)
			}
		}
		if len(shared) == 0 {
			continue
		}
		free := slices.Concat(own, shared)
		for _, components := range use[partition].Waiting {
			if len(components) == 0 {
				continue // its directory was not read yet
			}
			tasks, fits := packing.Place(components, free, caps.ExclusiveComponents)
			if !fits {
				continue
			}
			for i, u := range packing.Use(components, tasks, len(free)) {
				take(&free[i].Free, u)
				if name := free[i].Name; partitions[name] > 1 && (u.CPUs > 0 || u.MemoryMiB > 0 || len(u.GPUs) > 0) {
					if out[partition] == nil {
						out[partition] = map[string]backends.Amounts{}
					}
					held := out[partition][name]
					held.GPUs = maps.Clone(held.GPUs)
					give(&held, u)
					out[partition][name] = held
				}
			}
		}
	}
	return out
}

// left is what is free on a host.
func left(h backends.Host) backends.Amounts {
	a := backends.Amounts{CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, GPUs: maps.Clone(h.GPUs)}
	take(&a, h.Allocated)
	return a
}

func take(a *backends.Amounts, b backends.Amounts) {
	a.CPUs, a.MemoryMiB = max(0, a.CPUs-b.CPUs), max(0, a.MemoryMiB-b.MemoryMiB)
	for t, n := range b.GPUs {
		if have, ok := a.GPUs[t]; ok {
			a.GPUs[t] = max(0, have-n)
		}
	}
}

func give(a *backends.Amounts, b backends.Amounts) {
	a.CPUs, a.MemoryMiB = a.CPUs+b.CPUs, a.MemoryMiB+b.MemoryMiB
	for t, n := range b.GPUs {
		if a.GPUs == nil {
			a.GPUs = map[string]int64{}
		}
		a.GPUs[t] += n
	}
}
