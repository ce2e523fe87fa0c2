// Package packing places the tasks of one job on hosts, all of them or none. It
// is a pure leaf that the batch systems of our own (fake and local) share: they
// differ in how time passes and how programs run, not in what fits where.
//
// It must not know jobs, users or time.
package packing

import (
	"cmp"
	"maps"
	"slices"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Host is what one host has left.
type Host struct {
	Name string
	Free backends.Amounts
}

// Task is where one task runs.
type Task struct {
	// Host is the index in the hosts given to Place.
	Host int
	// GPUs are the devices by type; an untyped request has been resolved.
	GPUs map[string]int64
}

// Place puts every task of components on hosts and gives them by rank: the
// first component's tasks come first. ok is false when they do not fit all; the
// hosts given are never changed. Larger tasks are placed first, each on the
// first host that has room, so the answer depends on the arguments alone. With
// exclusive, tasks of different components do not share a host.
func Place(components []backends.Component, hosts []Host, exclusive bool) (tasks []Task, ok bool) {
	free := make([]backends.Amounts, len(hosts))
	for i, h := range hosts {
		free[i] = h.Free
		free[i].GPUs = maps.Clone(h.Free.GPUs)
	}
	first := make([]int, len(components)) // rank of each component's first task
	total := 0
	for i, c := range components {
		first[i] = total
		total += c.Tasks
	}
	tasks = make([]Task, total)
	takenBy := make([]int, len(hosts)) // component+1 that uses the host
	for _, i := range largestFirst(components) {
		c := components[i]
		at := 0 // equal tasks: a host that had no room for one has none for the next
		for n := range c.Tasks {
			for ; at < len(free); at++ {
				if exclusive && takenBy[at] != 0 && takenBy[at] != i+1 {
					continue
				}
				if gpus, fits := take(&free[at], c); fits {
					tasks[first[i]+n] = Task{Host: at, GPUs: gpus}
					takenBy[at] = i + 1
					break
				}
			}
			if at == len(free) {
				return nil, false
			}
		}
	}
	return tasks, true
}

// largestFirst orders component indices by GPUs, CPUs and memory of a task, the
// largest first, ties by index.
func largestFirst(components []backends.Component) []int {
	order := make([]int, len(components))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(x, y int) int {
		a, b := components[x], components[y]
		return cmp.Or(
			cmp.Compare(sum(b.GPUs), sum(a.GPUs)), cmp.Compare(b.CPUs, a.CPUs),
			cmp.Compare(b.MemoryMiB, a.MemoryMiB), cmp.Compare(x, y))
	})
	return order
}

func sum(m map[string]int64) int64 {
	var n int64
	for _, v := range m {
		n += v
	}
	return n
}

// take subtracts one task of c from free when it fits.
func take(free *backends.Amounts, c backends.Component) (map[string]int64, bool) {
	if free.CPUs < c.CPUs || free.MemoryMiB < c.MemoryMiB {
		return nil, false
	}
	gpus, fits := pick(free.GPUs, c.GPUs)
	if !fits {
		return nil, false
	}
	free.CPUs -= c.CPUs
	free.MemoryMiB -= c.MemoryMiB
	for kind, n := range gpus {
		free.GPUs[kind] -= n
	}
	return gpus, true
}

// pick resolves the request to types: named types first, then the untyped rest
// from what is left, in the order of the types' names.
func pick(free, want map[string]int64) (map[string]int64, bool) {
	got := map[string]int64{}
	for kind, n := range want {
		if kind == "" || n == 0 {
			continue
		}
		if free[kind] < n {
			return nil, false
		}
		got[kind] = n
	}
	rest := want[""]
	for _, kind := range slices.Sorted(maps.Keys(free)) {
		if kind == backends.Shard {
			continue // no whole GPU
		}
		n := min(rest, free[kind]-got[kind])
		if n > 0 {
			got[kind] += n
			rest -= n
		}
	}
	return got, rest <= 0
}

// Use gives what tasks hold on each host, by the hosts' index.
func Use(components []backends.Component, tasks []Task, hosts int) []backends.Amounts {
	used := make([]backends.Amounts, hosts)
	rank := 0
	for _, c := range components {
		for range c.Tasks {
			t := tasks[rank]
			u := &used[t.Host]
			u.CPUs += c.CPUs
			u.MemoryMiB += c.MemoryMiB
			for kind, n := range t.GPUs {
				if u.GPUs == nil {
					u.GPUs = map[string]int64{}
				}
				u.GPUs[kind] += n
			}
			rank++
		}
	}
	return used
}
