package fake

import (
	"cmp"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// before is the order of the queue: priority, then submission.
func before(a, b *job) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.no, b.no))
}

func (s *System) enqueue(j *job) {
	at, _ := slices.BinarySearchFunc(s.pending, j, before)
	s.pending = slices.Insert(s.pending, at, j)
}

func (s *System) dequeue(j *job) {
	s.pending = slices.DeleteFunc(s.pending, func(p *job) bool { return p == j })
}

// schedule starts what can start and tells the rest why it waits.
func (s *System) schedule() {
	s.endUnmet()
	blocked := map[*Partition]bool{} // whose hosts are promised to an earlier job
	var startable []*job
	for _, j := range s.pending {
		if s.mayRun(j, blocked) {
			startable = append(startable, j)
			s.account(j, 1)
		}
	}
	for _, j := range startable {
		s.dequeue(j)
		s.start(j)
	}
}

const neverSatisfied = "DependencyNeverSatisfied"

// endUnmet ends the jobs, held ones too, that came after one that ended in another
// way than well. Those can fail others in turn.
func (s *System) endUnmet() {
	for _, j := range slices.Clone(s.pending) {
		if j.state != backends.StatePending {
			continue // ended by an earlier turn
		}
		j.awaits = slices.DeleteFunc(j.awaits, func(a *job) bool { return a.state == backends.StateCompleted })
		if slices.ContainsFunc(j.awaits, func(a *job) bool { return a.state.Terminal() }) {
			j.reason = neverSatisfied
			s.end(j, backends.StateCancelled, 0, 0)
			s.endUnmet()
		}
	}
}

// endBehind ends the jobs, held ones too, that wait for j.
func (s *System) endBehind(j *job) {
	for _, p := range slices.Clone(s.pending) {
		if p.state == backends.StatePending && slices.Contains(p.awaits, j) {
			p.reason = neverSatisfied
			s.end(p, backends.StateCancelled, 0, 0)
		}
	}
}

// mayRun decides on one job, sets its reason, and places its tasks.
func (s *System) mayRun(j *job, blocked map[*Partition]bool) bool {
	j.never = false
	wait := func(reason string) bool { j.reason = reason; return false }
	switch {
	case j.adminHeld:
		return wait("JobHeldAdmin")
	case j.held:
		return wait("JobHeldUser")
	case s.now.Before(j.eligible):
		return wait("BeginTime")
	case len(j.awaits) > 0:
		return wait("Dependency")
	case !s.cfg.NoSingleton && s.names[userKey{j.spec.User, j.spec.Key}] > 0:
		return wait("Dependency")
	case j.partition.MaxWalltime > 0 && j.spec.Walltime > j.partition.MaxWalltime:
		j.never = true
		return wait("PartitionTimeLimit")
	case blocked[j.partition] && !s.cfg.Backfill:
		// Whether it can ever run is told once it comes to the front.
		return wait("Priority")
	}
	for name, n := range j.spec.Licenses {
		if s.licenses[name]+n > s.cfg.Licenses[name] {
			return wait("Licenses")
		}
	}
	var free, whole []packing.Host
	var index []int
	for i := range s.hosts {
		h := &s.hosts[i]
		if !j.partition.has(h.Name) || slices.Contains(j.spec.ExcludedHosts, h.Name) {
			continue
		}
		whole = append(whole, packing.Host{Name: h.Name, Free: backends.Amounts{CPUs: h.CPUs, MemoryMiB: h.MemoryMiB, GPUs: h.GPUs}})
		if h.down || s.keptFrom(h.Name, &j.spec) {
			continue
		}
		free = append(free, packing.Host{Name: h.Name, Free: h.left()})
		index = append(index, i)
	}
	exclusive := s.cfg.Capabilities.ExclusiveComponents
	tasks, fits := packing.Place(j.spec.Components, free, exclusive)
	if !fits {
		if _, ever := packing.Place(j.spec.Components, whole, exclusive); !ever {
			j.never = true
			return wait("PartitionNodeLimit")
		}
		for _, p := range s.shares[j.partition] {
			blocked[p] = true
		}
		return wait("Resources")
	}
	for i := range tasks {
		tasks[i].Host = index[tasks[i].Host]
	}
	j.tasks = tasks
	// From here on its namesakes must see it, though it starts after the pass.
	j.state = backends.StateRunning
	return true
}

func (h *host) left() backends.Amounts {
	left := backends.Amounts{
		CPUs:      h.CPUs - h.used.CPUs - h.foreign.CPUs,
		MemoryMiB: h.MemoryMiB - h.used.MemoryMiB - h.foreign.MemoryMiB,
		GPUs:      map[string]int64{},
	}
	for kind, n := range h.GPUs {
		left.GPUs[kind] = n - h.used.GPUs[kind] - h.foreign.GPUs[kind]
	}
	return left
}

func onHosts(state backends.State) bool {
	return state == backends.StateRunning || state == backends.StateSuspended || state == backends.StateCompleting
}

// account takes (sign 1) or gives back (sign -1) what j holds.
func (s *System) account(j *job, sign int64) {
	add(s.names, userKey{j.spec.User, j.spec.Key}, int(sign))
	add(s.audit.running, runKey{j.spec.Owner, j.spec.Key}, int(sign))
	for name, n := range j.spec.Licenses {
		add(s.licenses, name, sign*n)
	}
	for i, u := range packing.Use(j.spec.Components, j.tasks, len(s.hosts)) {
		h := &s.hosts[i].used
		h.CPUs += sign * u.CPUs
		h.MemoryMiB += sign * u.MemoryMiB
		for kind, n := range u.GPUs {
			if h.GPUs == nil {
				h.GPUs = map[string]int64{}
			}
			h.GPUs[kind] += sign * n
		}
	}
}

// add counts, and keeps no entry for what is not there.
func add[K comparable, N int | int64](counts map[K]N, key K, n N) {
	if counts[key] += n; counts[key] == 0 {
		delete(counts, key)
	}
}

func (s *System) start(j *job) {
	s.audit.starts(s, j)
	j.state, j.reason = backends.StateRunning, "None"
	j.started = s.now
	j.epoch++
	j.cause, j.requeue = "", false
	j.behaviour = Behaviour{Forever: true}
	if s.cfg.Program != nil {
		j.behaviour = s.cfg.Program(j.spec)
	}
	if !j.behaviour.Forever {
		s.plan(j.behaviour.Duration, programEnds, j)
	}
	if limit := cmp.Or(j.spec.Walltime, j.partition.DefaultWalltime); limit > 0 {
		s.plan(limit, limitEnds, j)
	}
	if hook := j.behaviour.OnStart; hook != nil {
		r := s.run(j)
		s.after = append(s.after, func() { hook(r) })
	}
}

// terminate sends the terminate signal to a running job, and the kill signal
// after grace; a pending job ends at once. A job that ends already keeps its cause.
func (s *System) terminate(j *job, cause backends.State, reason string, grace time.Duration) {
	switch {
	case j.state.Terminal() || j.state == backends.StateCompleting:
		return
	case j.state == backends.StatePending:
		j.reason = reason
		s.end(j, cause, 0, 0)
		return
	}
	s.audit.log(s, j, "terminate")
	left := time.Duration(-1) // until the program would end by itself
	if !j.behaviour.Forever {
		left = max(0, j.behaviour.Duration-s.now.Sub(j.started))
	}
	j.state, j.cause, j.reason = backends.StateCompleting, cause, reason
	j.epoch++
	if left >= 0 {
		s.plan(left, programEnds, j)
	}
	if !j.behaviour.IgnoreTerm {
		s.plan(j.behaviour.TermDelay, termEnds, j)
	}
	s.plan(grace, graceEnds, j)
	if hook := j.behaviour.OnTerm; hook != nil {
		r := s.run(j)
		s.after = append(s.after, func() { hook(r) })
	}
}

// end takes j off its hosts: for good, or back into the queue when it is to be requeued.
func (s *System) end(j *job, state backends.State, exit, signal int) {
	wasOn := onHosts(j.state)
	r := s.run(j)
	if wasOn {
		s.account(j, -1)
	} else {
		s.dequeue(j)
	}
	hook := j.behaviour.OnEnd
	j.epoch++
	if j.requeue {
		s.audit.requeues(s, j)
		j.state, j.reason, j.requeue, j.cause = backends.StatePending, "BeginTime", false, ""
		j.restarts++
		j.started, j.tasks = time.Time{}, nil
		j.eligible = s.now.Add(s.cfg.RequeueDelay)
		s.enqueue(j)
		s.plan(s.cfg.RequeueDelay, becomesEligible, j)
		if s.cfg.RequeueFails {
			s.endBehind(j)
		}
	} else {
		j.state, j.exit, j.signal, j.ended = state, exit, signal, s.now
		j.never = false
		s.audit.log(s, j, "end "+string(state))
		if !s.cfg.Capabilities.History {
			s.plan(s.cfg.MinJobAge, isForgotten, j)
		}
	}
	if wasOn && hook != nil {
		r.Now = s.now
		after := j.state
		s.after = append(s.after, func() { hook(r, after) })
	}
}
