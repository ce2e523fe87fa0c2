package inventory

import (
	"maps"
	"slices"
	"strings"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// promises says, by virtual node and host, what our jobs that wait for a node
// are about to take of hosts that another node of ours has as well, of the same
// partition or of another: that must not offer it again. A job is placed on what
// is free now, on hosts that nobody shares first; one that does not fit has been
// promised nothing.
func promises(nodes []hpcv1alpha1.VirtualNode, usable [][]backends.Host, use map[string]Use, caps backends.Capabilities) map[string]map[string]backends.Amounts {
	having := map[string]int{} // nodes that have a host
	for i := range nodes {
		for _, h := range usable[i] {
			having[h.Name]++
		}
	}
	out := map[string]map[string]backends.Amounts{}
	for i, n := range nodes {
		var own, shared []packing.Host
		for _, h := range slices.SortedFunc(slices.Values(usable[i]), func(a, b backends.Host) int { return strings.Compare(a.Name, b.Name) }) {
			at := packing.Host{Name: h.Name, Free: left(h)}
			if having[h.Name] > 1 {
				shared = append(shared, at)
			} else {
				own = append(own, at)
			}
		}
		if len(shared) == 0 {
			continue
		}
		free := slices.Concat(own, shared)
		for _, w := range use[n.Name].Waiting {
			if len(w.Components) == 0 {
				continue // its directory was not read yet
			}
			tasks, fits := packing.Place(w.Components, free, caps.ExclusiveComponents)
			if !fits {
				continue
			}
			for i, u := range packing.Use(w.Components, tasks, len(free)) {
				take(&free[i].Free, u)
				if name := free[i].Name; having[name] > 1 && (u.CPUs > 0 || u.MemoryMiB > 0 || len(u.GPUs) > 0) {
					if out[n.Name] == nil {
						out[n.Name] = map[string]backends.Amounts{}
					}
					held := out[n.Name][name]
					held.GPUs = maps.Clone(held.GPUs)
					give(&held, u)
					out[n.Name][name] = held
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
