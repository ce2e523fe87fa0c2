package queue

import (
	"fmt"
	"reflect"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func twoHosts() jobdir.Config {
	return jobdir.Config{Partitions: []jobdir.Partition{
		{Name: "gpu", Hosts: 2, CPUs: 4, MemoryMiB: 100, GPUs: 2, GPUType: "a100", MaxWalltime: time.Hour},
		{Name: "cpu", Hosts: 1, CPUs: 4, MemoryMiB: 100},
	}}
}

func pending(n int64, partition string, components ...backends.Component) jobdir.Job {
	id := strconv.FormatInt(n, 10)
	return jobdir.Job{Released: true, Record: jobdir.Record{
		ID: backends.JobID(id), Number: n,
		Spec: backends.JobSpec{Key: backends.Key("k" + id), User: "u", Partition: partition, Components: components},
	}}
}

func tasks(n int, cpus, gpus int64) backends.Component {
	c := backends.Component{Tasks: n, CPUs: cpus}
	if gpus > 0 {
		c.GPUs = map[string]int64{"a100": gpus}
	}
	return c
}

func TestDecide(t *testing.T) {
	held := pending(1, "gpu", tasks(1, 1, 0))
	held.Released = false
	cancelled := pending(1, "gpu", tasks(1, 1, 0))
	cancelled.Cancelled = true
	long := pending(1, "gpu", tasks(1, 1, 0))
	long.Spec.Walltime = 2 * time.Hour
	same := pending(2, "gpu", tasks(1, 1, 0))
	same.Spec.Key = "k1"

	for name, c := range map[string]struct {
		jobs  []jobdir.Job
		start string // id and places
		waits map[backends.JobID]Wait
	}{
		"held":      {[]jobdir.Job{held}, "", map[backends.JobID]Wait{"1": {Held, false}}},
		"cancelled": {[]jobdir.Job{cancelled}, "", map[backends.JobID]Wait{}},
		"too long":  {[]jobdir.Job{long}, "", map[backends.JobID]Wait{"1": {TooLong, true}}},
		"too large": {[]jobdir.Job{pending(1, "gpu", tasks(3, 4, 0))}, "", map[backends.JobID]Wait{"1": {TooLarge, true}}},
		"too large does not block": {
			[]jobdir.Job{pending(1, "gpu", tasks(3, 4, 0)), pending(2, "gpu", tasks(1, 1, 0))},
			"2 gpu-1[]", map[backends.JobID]Wait{"1": {TooLarge, true}}},
		"unknown partition": {[]jobdir.Job{pending(1, "gone", tasks(1, 1, 0))}, "", map[backends.JobID]Wait{"1": {NoPartition, false}}},
		"gang over two hosts with devices": {
			[]jobdir.Job{pending(1, "gpu", tasks(4, 2, 1))},
			"1 gpu-1[0] gpu-1[1] gpu-2[2] gpu-2[3]", map[backends.JobID]Wait{}},
		"the older blocks its partition only": {
			[]jobdir.Job{pending(1, "gpu", tasks(2, 3, 0)), pending(2, "gpu", tasks(2, 4, 0)), pending(3, "gpu", tasks(1, 1, 0)), pending(4, "cpu", tasks(1, 1, 0))},
			"1 gpu-1[] gpu-2[] 4 cpu-1[]", map[backends.JobID]Wait{"2": {Resources, false}, "3": {Priority, false}}},
		"one key at a time": {
			[]jobdir.Job{pending(1, "gpu", tasks(1, 1, 0)), same},
			"1 gpu-1[]", map[backends.JobID]Wait{"2": {Dependency, false}}},
		"unequal components": {
			[]jobdir.Job{pending(1, "gpu", tasks(1, 1, 0), tasks(2, 4, 2))}, "", map[backends.JobID]Wait{"1": {TooLarge, true}}},
		"unequal components that fit": {
			[]jobdir.Job{pending(1, "gpu", tasks(1, 1, 0), tasks(1, 4, 2))},
			"1 gpu-2[] gpu-1[0 1]", map[backends.JobID]Wait{}},
	} {
		t.Run(name, func(t *testing.T) {
			d := Decide(twoHosts(), c.jobs, now)
			got := ""
			for _, s := range d.Start {
				got += string(s.ID)
				for _, place := range s.Assignment.Tasks {
					got += fmt.Sprintf(" %s%v", place.Host, place.GPUs)
				}
				got += " "
			}
			if want := c.start; got != want && got != want+" " {
				t.Errorf("started %q, want %q", got, want)
			}
			if !reflect.DeepEqual(d.Waits, c.waits) {
				t.Errorf("waits %v, want %v", d.Waits, c.waits)
			}
		})
	}
}

// Whatever is submitted and however often the queue is looked at: no host is
// overdrawn, no device is given twice, and a job that could run alone runs.
func TestDecideIsFairAndNeverOverdraws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := twoHosts()
		var jobs []jobdir.Job
		for n := range rapid.IntRange(1, 8).Draw(t, "jobs") {
			jobs = append(jobs, pending(int64(n+1), rapid.SampledFrom([]string{"gpu", "cpu"}).Draw(t, "partition"),
				tasks(rapid.IntRange(1, 4).Draw(t, "tasks"), rapid.Int64Range(1, 4).Draw(t, "cpus"), rapid.Int64Range(0, 2).Draw(t, "gpus"))))
		}
		for range 2 * len(jobs) {
			d := Decide(cfg, jobs, now)
			for _, s := range d.Start {
				for i := range jobs {
					if jobs[i].ID == s.ID {
						jobs[i].Start = &s.Assignment
					}
				}
			}
			l := NewLedger(cfg)
			device := map[int]backends.JobID{}
			oldest := -1
			for i := range jobs {
				j := &jobs[i]
				if !j.Holds() {
					continue
				}
				if oldest < 0 {
					oldest = i
				}
				l.Take(j.Spec, *j.Start)
				for _, task := range j.Start.Tasks {
					for _, id := range task.GPUs {
						if other, taken := device[id]; taken {
							t.Fatalf("device %d is given to jobs %s and %s", id, other, j.ID)
						}
						device[id] = j.ID
					}
				}
			}
			for _, h := range l.Hosts() {
				if h.Allocated.CPUs > h.CPUs || h.Allocated.MemoryMiB > h.MemoryMiB {
					t.Fatalf("host %s is overdrawn: %+v", h.Name, h)
				}
			}
			if oldest >= 0 {
				jobs[oldest].End = &jobdir.End{State: backends.StateCompleted}
			}
		}
		for _, j := range jobs {
			if w := Decide(cfg, []jobdir.Job{{Released: true, Record: j.Record}}, now).Waits[j.ID]; j.End == nil && !w.Never {
				t.Fatalf("job %s could run alone and never did: %+v", j.ID, j.Spec)
			}
		}
	})
}
