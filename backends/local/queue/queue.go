// Package queue decides which jobs of the local batch system start now, and
// where. It is pure: jobs and time come as arguments, nothing is read or
// written.
//
// Older jobs go first. A job that must wait keeps its partition for itself, so
// that younger and smaller jobs cannot starve it.
package queue

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// The reasons why a job waits, in Slurm's words where it has one.
const (
	Held       = "JobHeldUser"
	Resources  = "Resources"
	Priority   = "Priority"
	Dependency = "Dependency"
	// NoPartition: the partition was taken out of the configuration.
	NoPartition = "PartitionDown"
	// TooLarge and TooLong never pass by themselves.
	TooLarge = "PartitionNodeLimit"
	TooLong  = "PartitionTimeLimit"
)

// Wait says why a pending job does not start.
type Wait struct {
	Reason string
	Never  bool
}

// Decision is what to do with the pending jobs.
type Decision struct {
	// Start in this order.
	Start []Started
	Waits map[backends.JobID]Wait
}

// Started is one job that starts now.
type Started struct {
	ID         backends.JobID
	Assignment jobdir.Assignment
}

// Decide looks at all jobs, in the order of submission. Jobs of every owner
// compete for the same hosts.
func Decide(cfg jobdir.Config, jobs []jobdir.Job, now time.Time) Decision {
	l := NewLedger(cfg)
	names := map[name]bool{}
	for i := range jobs {
		if jobs[i].Holds() {
			l.Take(jobs[i].Spec, *jobs[i].Start)
			names[nameOf(&jobs[i])] = true
		}
	}
	d := Decision{Waits: map[backends.JobID]Wait{}}
	blocked := map[string]bool{} // partitions
	for i := range jobs {
		j := &jobs[i]
		if j.Start != nil || j.End != nil || j.Cancelled {
			continue
		}
		wait := func(reason string, never bool) { d.Waits[j.ID] = Wait{Reason: reason, Never: never} }
		p := l.partition(j.Spec.Partition)
		switch {
		case !j.Released:
			wait(Held, false)
		case p == nil:
			wait(NoPartition, false)
		case p.MaxWalltime > 0 && j.Spec.Walltime > p.MaxWalltime:
			wait(TooLong, true)
		case !l.everFits(p, j.Spec.Components):
			wait(TooLarge, true)
		case names[nameOf(j)]:
			wait(Dependency, false)
		case blocked[p.Name]:
			wait(Priority, false)
		default:
			a, fits := l.assign(p, j.Spec.Components)
			if !fits {
				blocked[p.Name] = true
				wait(Resources, false)
				continue
			}
			a.Time = now
			l.Take(j.Spec, a)
			names[nameOf(j)] = true
			d.Start = append(d.Start, Started{ID: j.ID, Assignment: a})
		}
	}
	return d
}

// name is what only one job at a time may run under.
type name struct {
	user string
	key  backends.Key
}

func nameOf(j *jobdir.Job) name { return name{j.Spec.User, j.Spec.Key} }

// Ledger is what each pretended host has and what jobs hold of it.
type Ledger struct {
	cfg   jobdir.Config
	hosts []host
	at    map[string]int
}

type host struct {
	name      string
	partition *jobdir.Partition
	used      backends.Amounts // its GPUs are counted by busy
	// The host's devices are first to first+GPUs-1: the pretended hosts are one
	// machine, so its devices are numbered through.
	first int
	busy  map[int]bool
}

// NewLedger is the ledger of idle hosts.
func NewLedger(cfg jobdir.Config) *Ledger {
	l := &Ledger{cfg: cfg, at: map[string]int{}}
	device := 0
	for i := range cfg.Partitions {
		p := &cfg.Partitions[i]
		for n := range p.Hosts {
			h := host{name: HostName(p, n), partition: p, first: device, busy: map[int]bool{}}
			device += int(p.GPUs)
			l.at[h.name] = len(l.hosts)
			l.hosts = append(l.hosts, h)
		}
	}
	return l
}

// partition gives the partition that a job asks for; "" is the first.
func (l *Ledger) partition(name string) *jobdir.Partition {
	for i := range l.cfg.Partitions {
		if p := &l.cfg.Partitions[i]; p.Name == name || name == "" {
			return p
		}
	}
	return nil
}

// Take notes what a job holds. Hosts that the configuration no longer has are
// passed over; a host that shrank may be overdrawn, and then gets nothing new.
func (l *Ledger) Take(spec backends.JobSpec, a jobdir.Assignment) {
	rank := 0
	for _, c := range spec.Components {
		for range c.Tasks {
			if rank >= len(a.Tasks) {
				return
			}
			t := a.Tasks[rank]
			rank++
			at, ok := l.at[t.Host]
			if !ok {
				continue
			}
			h := &l.hosts[at]
			h.used.CPUs += c.CPUs
			h.used.MemoryMiB += c.MemoryMiB
			for _, id := range t.GPUs {
				h.busy[id] = true
			}
		}
	}
}

func (l *Ledger) of(p *jobdir.Partition) []int {
	var index []int
	for i := range l.hosts {
		if l.hosts[i].partition == p {
			index = append(index, i)
		}
	}
	return index
}

func whole(p *jobdir.Partition) backends.Amounts {
	return backends.Amounts{CPUs: p.CPUs, MemoryMiB: p.MemoryMiB, GPUs: map[string]int64{p.GPUType: p.GPUs}}
}

func (l *Ledger) everFits(p *jobdir.Partition, components []backends.Component) bool {
	var idle []packing.Host
	for _, i := range l.of(p) {
		idle = append(idle, packing.Host{Name: l.hosts[i].name, Free: whole(p)})
	}
	_, fits := packing.Place(components, idle, false)
	return fits
}

// assign places all tasks and gives them devices by number.
func (l *Ledger) assign(p *jobdir.Partition, components []backends.Component) (jobdir.Assignment, bool) {
	index := l.of(p)
	var free []packing.Host
	for _, i := range index {
		h := &l.hosts[i]
		left := whole(p)
		left.CPUs -= h.used.CPUs
		left.MemoryMiB -= h.used.MemoryMiB
		left.GPUs[p.GPUType] -= int64(len(h.busy))
		free = append(free, packing.Host{Name: h.name, Free: left})
	}
	placed, fits := packing.Place(components, free, false)
	if !fits {
		return jobdir.Assignment{}, false
	}
	var a jobdir.Assignment
	given := map[int]bool{}
	for _, t := range placed {
		h := &l.hosts[index[t.Host]]
		task := jobdir.Task{Host: h.name}
		for id := h.first; id < h.first+int(p.GPUs) && int64(len(task.GPUs)) < t.GPUs[p.GPUType]; id++ {
			if !h.busy[id] && !given[id] {
				given[id] = true
				task.GPUs = append(task.GPUs, id)
			}
		}
		a.Tasks = append(a.Tasks, task)
	}
	return a, true
}

// Hosts describes every host, ordered by name.
func (l *Ledger) Hosts() []backends.Host {
	var out []backends.Host
	for i := range l.hosts {
		h := &l.hosts[i]
		v := backends.Host{
			Name: h.name, Addr: "127.0.0.1", State: "idle", Usable: true,
			CPUs: h.partition.CPUs, MemoryMiB: h.partition.MemoryMiB,
			Allocated: backends.Amounts{CPUs: h.used.CPUs, MemoryMiB: h.used.MemoryMiB},
		}
		if h.partition.GPUs > 0 {
			v.GPUs = map[string]int64{h.partition.GPUType: h.partition.GPUs}
			v.Allocated.GPUs = map[string]int64{h.partition.GPUType: int64(len(h.busy))}
		}
		if h.used.CPUs > 0 {
			v.State = "allocated"
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b backends.Host) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// Partitions describes every partition, ordered by name.
func (l *Ledger) Partitions() []backends.Partition {
	var out []backends.Partition
	for i := range l.cfg.Partitions {
		p := &l.cfg.Partitions[i]
		v := backends.Partition{Name: p.Name, Up: true, Default: i == 0, MaxWalltime: p.MaxWalltime, DefaultWalltime: p.MaxWalltime}
		for n := range p.Hosts {
			v.Hosts = append(v.Hosts, HostName(p, n))
		}
		slices.Sort(v.Hosts)
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b backends.Partition) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// HostName is the name of the n-th host of a partition, counted from 0.
func HostName(p *jobdir.Partition, n int) string { return fmt.Sprintf("%s-%d", p.Name, n+1) }
