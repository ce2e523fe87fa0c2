package fake

import (
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/packing"
)

// alter does something to one job under the lock and schedules afterwards. It
// panics for an unknown job: a test that misses its target proves nothing.
func (s *System) alter(id backends.JobID, do func(*job)) {
	s.mu.Lock()
	defer s.unlock()
	j := s.jobs[id]
	if j == nil {
		panic(fmt.Sprintf("fake: job %s is unknown", id))
	}
	do(j)
	s.schedule()
}

// Finish ends a running job now, as if its program had ended by itself.
func (s *System) Finish(id backends.JobID, exitCode, signal int) {
	s.alter(id, func(j *job) {
		if !onHosts(j.state) {
			return
		}
		state := backends.StateCompleted
		switch {
		case j.cause != "":
			state = j.cause
		case exitCode != 0 || signal != 0:
			state = backends.StateFailed
		}
		s.end(j, state, exitCode, signal)
	})
}

// OutOfMemory kills a running job for its use of memory.
func (s *System) OutOfMemory(id backends.JobID) {
	s.alter(id, func(j *job) {
		if onHosts(j.state) {
			j.reason = "OutOfMemory"
			s.end(j, backends.StateOutOfMemory, 0, 9)
		}
	})
}

// Requeue puts a running job back into the queue at once, as an administrator
// may; it runs again after RequeueDelay with a higher restart count.
func (s *System) Requeue(id backends.JobID) {
	s.alter(id, func(j *job) {
		if j.state == backends.StateRunning || j.state == backends.StateSuspended {
			j.requeue = true
			s.end(j, backends.StatePending, 0, 0)
		}
	})
}

// Preempt sends a running job the terminate signal for the benefit of another,
// and kills it after grace. It then ends as Preempted, or is requeued.
func (s *System) Preempt(id backends.JobID, grace time.Duration, requeue bool) {
	s.alter(id, func(j *job) {
		if j.state == backends.StateRunning || j.state == backends.StateSuspended {
			j.requeue = requeue
			s.terminate(j, backends.StatePreempted, "Preempted", grace)
		}
	})
}

// Suspend stops a running job in place; Resume continues it. Its program's
// clock goes on: only the reported state changes.
func (s *System) Suspend(id backends.JobID) {
	s.alter(id, func(j *job) {
		if j.state == backends.StateRunning {
			j.state = backends.StateSuspended
		}
	})
}

// Resume continues a suspended job.
func (s *System) Resume(id backends.JobID) {
	s.alter(id, func(j *job) {
		if j.state == backends.StateSuspended {
			j.state = backends.StateRunning
		}
	})
}

// HoldByAdmin keeps a pending job from starting until AdminRelease, whatever
// its user does.
func (s *System) HoldByAdmin(id backends.JobID) { s.alter(id, func(j *job) { j.adminHeld = true }) }

// AdminRelease ends HoldByAdmin.
func (s *System) AdminRelease(id backends.JobID) { s.alter(id, func(j *job) { j.adminHeld = false }) }

// SetPriority changes the place of a job in the queue; higher starts first.
func (s *System) SetPriority(id backends.JobID, priority int64) {
	s.alter(id, func(j *job) {
		j.priority = priority
		slices.SortFunc(s.pending, before)
	})
}

// Forget removes an ended job from all lists now, as if MinJobAge had passed.
func (s *System) Forget(id backends.JobID) {
	s.alter(id, func(j *job) {
		if j.state.Terminal() {
			delete(s.jobs, id)
		}
	})
}

// FailHost takes a host down. Its jobs, on whatever other hosts, are requeued
// or end as NodeFail.
func (s *System) FailHost(name string, requeue bool) {
	s.onHost(name, func(at int, h *host) {
		h.down, h.why = true, "Not responding"
		for _, j := range s.byAge() {
			if !onHosts(j.state) || !j.uses(at) {
				continue
			}
			// A cancelled job stays cancelled: it is not brought back.
			j.requeue = requeue && j.cause == ""
			state := backends.StateNodeFail
			if j.cause != "" {
				state = j.cause
			}
			j.reason = "NodeDown"
			s.end(j, state, 0, 15)
		}
	})
}

// RepairHost brings a host back.
func (s *System) RepairHost(name string) {
	s.onHost(name, func(_ int, h *host) { h.down, h.why = false, "" })
}

// SetForeign sets what others use on a host, out of our sight.
func (s *System) SetForeign(name string, used backends.Amounts) {
	s.onHost(name, func(_ int, h *host) { h.foreign = used })
}

func (s *System) onHost(name string, do func(int, *host)) {
	s.mu.Lock()
	defer s.unlock()
	at := s.hostAt(name)
	if at < 0 {
		panic("fake: host " + name + " is unknown")
	}
	do(at, &s.hosts[at])
	s.schedule()
}

func (j *job) uses(at int) bool {
	return slices.ContainsFunc(j.tasks, func(t packing.Task) bool { return t.Host == at })
}

// byAge lists all jobs in the order of submission.
func (s *System) byAge() []*job {
	jobs := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b *job) int { return int(a.no - b.no) })
	return jobs
}
