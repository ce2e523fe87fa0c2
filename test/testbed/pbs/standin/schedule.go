package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// free is what a vnode has left.
type free struct {
	cpus, gpus, memoryKB int64
	taken                bool // some job is on it
}

// use sums up what running jobs leave.
func (s *server) left() map[*vnode]free {
	out := map[*vnode]free{}
	for _, v := range s.vnodes {
		out[v] = free{cpus: v.cpus, gpus: v.gpus, memoryKB: v.memoryKB}
	}
	for _, j := range s.jobs {
		for _, p := range j.placed {
			if j.ended() || j.state == "Q" || j.state == "H" {
				continue
			}
			f := out[p.vnode]
			f.cpus -= p.chunk.cpus
			f.gpus -= p.chunk.gpus
			f.memoryKB -= p.chunk.memoryKB
			f.taken = true
			out[p.vnode] = f
		}
	}
	return out
}

func (v *vnode) serves(q queueSpec, torque bool) bool {
	if v.natural {
		return false
	}
	return len(q.Hosts) == 0 || slices.Contains(q.Hosts, v.host)
}

func (v *vnode) matches(c *chunk) bool {
	for name, want := range c.resources {
		if have := v.resources[name]; have != want && (name != "host" || v.host != want) {
			return false
		}
	}
	for _, p := range c.properties {
		if !slices.Contains(v.properties, p) && p != v.name {
			return false
		}
	}
	return true
}

// schedule starts what fits, in the order of submission; what does not fit
// lets others pass. The lock must be held.
func (s *server) schedule() {
	if s.ended {
		return
	}
	now := time.Now()
	for n, j := range s.jobs {
		if !j.keepCompleted.IsZero() && now.After(j.keepCompleted) {
			delete(s.jobs, n)
		}
	}
	left := s.left()
	for _, j := range s.ordered() {
		if j.state != "Q" || j.array || j.run != nil {
			continue
		}
		placed, why := s.place(j, left)
		if placed == nil {
			if j.comment != why {
				j.comment = why
			}
			continue
		}
		j.placed = placed
		s.start(j)
		left = s.left()
	}
}

// place finds room for all chunks of a job, or says why there is none.
func (s *server) place(j *job, left map[*vnode]free) ([]placement, string) {
	queue := s.queue(j.queue)
	var want, avail, total free
	for _, c := range j.chunks {
		n := int64(c.n)
		want.cpus, want.memoryKB = want.cpus+n*c.cpus, want.memoryKB+n*c.memoryKB
	}
	open := 0
	for _, v := range s.vnodes {
		if !v.serves(queue, s.Torque) {
			continue
		}
		total.cpus, total.memoryKB = total.cpus+v.cpus, total.memoryKB+v.memoryKB
		if v.offline || v.down {
			continue
		}
		open++
		avail.cpus, avail.memoryKB = avail.cpus+left[v].cpus, avail.memoryKB+left[v].memoryKB
	}
	// Recorded: GPUs beyond all there are give "No available resources on nodes".
	for _, r := range []struct {
		name       string
		w, a, t    int64
		kilo       bool
		impossible bool
	}{
		{"ncpus", want.cpus, avail.cpus, total.cpus, false, want.cpus > total.cpus},
		{"mem", want.memoryKB, avail.memoryKB, total.memoryKB, true, want.memoryKB > total.memoryKB},
	} {
		if r.w <= r.a {
			continue
		}
		unit := ""
		if r.kilo {
			unit = "kb"
		}
		verb := "Not Running"
		if r.impossible {
			verb = "Can Never Run"
		}
		if open > 0 || r.impossible {
			return nil, fmt.Sprintf("%s: Insufficient amount of resource: %s (R: %d%s A: %d%s T: %d%s)", verb, r.name, r.w, unit, r.a, unit, r.t, unit)
		}
	}
	if open == 0 {
		return nil, "Not Running: Not enough free nodes available"
	}
	scratch := map[*vnode]free{}
	for v, f := range left {
		scratch[v] = f
	}
	used := map[string]bool{}
	var placed []placement
	slots, gpus := s.slots(), s.gpusTaken()
	for i := range j.chunks {
		c := &j.chunks[i]
		for range c.n {
			at := slices.IndexFunc(s.vnodes, func(v *vnode) bool {
				f := scratch[v]
				if !v.serves(queue, s.Torque) || v.offline || v.down || !v.matches(c) || f.cpus < c.cpus || f.gpus < c.gpus || f.memoryKB < c.memoryKB {
					return false
				}
				return (j.place != "scatter" || !used[v.host]) && (j.place != "vscatter" || !used[v.name])
			})
			if at < 0 {
				return nil, "Not Running: No available resources on nodes"
			}
			v := s.vnodes[at]
			used[v.host], used[v.name] = true, true
			f := scratch[v]
			f.cpus, f.gpus, f.memoryKB = f.cpus-c.cpus, f.gpus-c.gpus, f.memoryKB-c.memoryKB
			scratch[v] = f
			p := placement{vnode: v, chunk: c}
			if s.Torque {
				p.slot = take(slots[v.host], int(c.cpus))
			} else {
				// PBS counts the parts of jobs on a host.
				p.slot = take(slots[v.host], 1)
			}
			for g := 0; int64(len(p.gpus)) < c.gpus; g++ {
				if !gpus[v.host][g] {
					gpus[v.host][g] = true
					p.gpus = append(p.gpus, g)
				}
			}
			placed = append(placed, p)
		}
	}
	return placed, ""
}

// take takes the first run of n free numbers.
func take(taken map[int]bool, n int) int {
	for first := 0; ; first++ {
		fits := true
		for i := range n {
			fits = fits && !taken[first+i]
		}
		if !fits {
			continue
		}
		for i := range n {
			taken[first+i] = true
		}
		return first
	}
}

// slots tells which numbers of exec_host are in use on each host.
func (s *server) slots() map[string]map[int]bool {
	return s.taken(func(p placement) (numbers []int) {
		n := 1
		if s.Torque {
			n = int(p.chunk.cpus)
		}
		for i := range n {
			numbers = append(numbers, p.slot+i)
		}
		return numbers
	})
}

func (s *server) gpusTaken() map[string]map[int]bool {
	return s.taken(func(p placement) []int { return p.gpus })
}

// taken gathers numbers of what runs, by host.
func (s *server) taken(of func(placement) []int) map[string]map[int]bool {
	out := map[string]map[int]bool{}
	for _, v := range s.vnodes {
		out[v.host] = map[int]bool{}
	}
	for _, j := range s.jobs {
		if j.run == nil {
			continue
		}
		for _, p := range j.placed {
			for _, n := range of(p) {
				out[p.vnode.host][n] = true
			}
		}
	}
	return out
}

func (s *server) queue(name string) queueSpec {
	for _, q := range s.Queues {
		if q.Name == name {
			return q
		}
	}
	return queueSpec{}
}

// start runs a placed job.
func (s *server) start(j *job) {
	now := time.Now()
	j.state, j.substate, j.stime, j.runs = "R", 42, now, j.runs+1
	j.obit = time.Time{}
	stamp := now.UTC().Format("Mon Jan _2 at 15:04")
	j.comment = "Job run at " + stamp + " on " + j.vnodeText()
	j.touch()
	run, err := s.launch(j)
	if err != nil {
		// As after a failed start on a host: the codes are PBS's.
		fmt.Fprintf(os.Stderr, "start %s: %v\n", j.id(), err)
		code := -1
		j.exit = &code
		s.finish(j)
		return
	}
	j.run, j.session = run, run.pid
	go s.watch(j, run)
}
