package packing

import (
	"maps"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/backends"
)

func host(name string, cpus, memory, gpus int64) Host {
	return Host{Name: name, Free: backends.Amounts{CPUs: cpus, MemoryMiB: memory, GPUs: map[string]int64{"a100": gpus}}}
}

func TestPlace(t *testing.T) {
	two := []Host{host("a", 4, 100, 2), host("b", 4, 100, 2)}
	for name, c := range map[string]struct {
		components []backends.Component
		hosts      []Host
		exclusive  bool
		want       []int // host by rank; nil does not fit
	}{
		"fills the first host first": {[]backends.Component{{Tasks: 3, CPUs: 2}}, two, false, []int{0, 0, 1}},
		"all or none":                {[]backends.Component{{Tasks: 5, CPUs: 2}}, two, false, nil},
		"a task is not split":        {[]backends.Component{{Tasks: 1, CPUs: 5}}, two, false, nil},
		"gpus bind":                  {[]backends.Component{{Tasks: 2, CPUs: 1, GPUs: map[string]int64{"a100": 2}}}, two, false, []int{0, 1}},
		"untyped gpus":               {[]backends.Component{{Tasks: 4, CPUs: 1, GPUs: map[string]int64{"": 1}}}, two, false, []int{0, 0, 1, 1}},
		"unknown type":               {[]backends.Component{{Tasks: 1, CPUs: 1, GPUs: map[string]int64{"h100": 1}}}, two, false, nil},
		"memory binds":               {[]backends.Component{{Tasks: 3, CPUs: 1, MemoryMiB: 60}}, two, false, nil},
		"larger tasks first":         {[]backends.Component{{Tasks: 4, CPUs: 1}, {Tasks: 1, CPUs: 4}}, two, false, []int{1, 1, 1, 1, 0}},
		"exclusive components":       {[]backends.Component{{Tasks: 1, CPUs: 1}, {Tasks: 1, CPUs: 2}}, two, true, []int{1, 0}},
		"exclusive does not fit":     {[]backends.Component{{Tasks: 1, CPUs: 1}, {Tasks: 2, CPUs: 3}}, two, true, nil},
		"no hosts":                   {[]backends.Component{{Tasks: 1, CPUs: 1}}, nil, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tasks, ok := Place(c.components, c.hosts, c.exclusive)
			if ok != (c.want != nil) {
				t.Fatalf("ok = %t", ok)
			}
			var got []int
			for _, task := range tasks {
				got = append(got, task.Host)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Fatalf("placed on %v, want %v", got, c.want)
			}
		})
	}
}

func TestPlaceNeverOvercommits(t *testing.T) {
	amount := rapid.Int64Range(0, 8)
	rapid.Check(t, func(t *rapid.T) {
		hosts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Host {
			h := host("h", amount.Draw(t, "cpus"), amount.Draw(t, "memory"), amount.Draw(t, "a100"))
			h.Free.GPUs["v100"] = amount.Draw(t, "v100")
			return h
		}), 0, 5).Draw(t, "hosts")
		components := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) backends.Component {
			return backends.Component{
				Tasks: rapid.IntRange(1, 4).Draw(t, "tasks"), CPUs: rapid.Int64Range(1, 4).Draw(t, "cpus"), MemoryMiB: amount.Draw(t, "memory"),
				GPUs: map[string]int64{"": rapid.Int64Range(0, 2).Draw(t, "any"), "a100": rapid.Int64Range(0, 2).Draw(t, "a100")},
			}
		}), 1, 3).Draw(t, "components")
		exclusive := rapid.Bool().Draw(t, "exclusive")

		kept := make([]map[string]int64, len(hosts))
		for i, h := range hosts {
			kept[i] = maps.Clone(h.Free.GPUs)
		}
		tasks, ok := Place(components, hosts, exclusive)
		for i, h := range hosts {
			if !maps.Equal(kept[i], h.Free.GPUs) {
				t.Fatal("the hosts given were changed")
			}
		}
		if !ok {
			return
		}
		for i, u := range Use(components, tasks, len(hosts)) {
			free := hosts[i].Free
			if u.CPUs > free.CPUs || u.MemoryMiB > free.MemoryMiB || u.GPUs["a100"] > free.GPUs["a100"] || u.GPUs["v100"] > free.GPUs["v100"] {
				t.Fatalf("host %d has %+v and is used for %+v", i, free, u)
			}
		}
		rank := 0
		user := map[int]int{}
		for i, c := range components {
			for range c.Tasks {
				if got, want := sum(tasks[rank].GPUs), sum(c.GPUs); got != want {
					t.Fatalf("rank %d got %d GPUs, want %d", rank, got, want)
				}
				if other, taken := user[tasks[rank].Host]; exclusive && taken && other != i {
					t.Fatalf("components %d and %d share a host", other, i)
				}
				user[tasks[rank].Host] = i
				rank++
			}
		}
	})
}
