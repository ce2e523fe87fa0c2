package fake

import (
	"container/heap"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

type eventKind int

const (
	programEnds eventKind = iota // by itself
	termEnds                     // after a terminate signal
	graceEnds                    // the kill signal
	limitEnds                    // the walltime is over
	becomesEligible
	isForgotten
	reservationTurns // one begins or ends
)

type event struct {
	at    time.Time
	no    int64 // order of creation: the tie-break
	kind  eventKind
	job   *job
	epoch int
}

// eventHeap is a container/heap ordered by time, then creation.
type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(a, b int) bool {
	if !h[a].at.Equal(h[b].at) {
		return h[a].at.Before(h[b].at)
	}
	return h[a].no < h[b].no
}
func (h eventHeap) Swap(a, b int) { h[a], h[b] = h[b], h[a] }

// Push is for container/heap.
func (h *eventHeap) Push(x any) { *h = append(*h, x.(event)) }

// Pop is for container/heap.
func (h *eventHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

func (s *System) plan(after time.Duration, kind eventKind, j *job) {
	s.eventNo++
	heap.Push(&s.events, event{at: s.now.Add(after), no: s.eventNo, kind: kind, job: j, epoch: j.epoch})
}

// Now is the virtual time.
func (s *System) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

// Advance lets d pass: everything due happens in order of time, also with d 0.
func (s *System) Advance(d time.Duration) {
	target := s.Now().Add(d)
	for s.step(target) {
	}
}

// NextEvent is when something happens next by itself; ok is false when nothing
// will. It may name an event that turns out to be void.
func (s *System) NextEvent() (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return time.Time{}, false
	}
	return s.events[0].at, true
}

// step carries out the first event due by target, or moves the clock there.
func (s *System) step(target time.Time) (more bool) {
	s.mu.Lock()
	defer s.unlock()
	if len(s.events) == 0 || s.events[0].at.After(target) {
		if target.After(s.now) {
			s.now = target
		}
		return false
	}
	e := heap.Pop(&s.events).(event)
	if e.at.After(s.now) {
		s.now = e.at
	}
	if e.epoch != e.job.epoch {
		return true
	}
	s.happen(e)
	s.schedule()
	return true
}

func (s *System) happen(e event) {
	j := e.job
	switch e.kind {
	case programEnds:
		state := backends.StateCompleted
		switch {
		case j.cause != "":
			state = j.cause
		case j.behaviour.OutOfMemory:
			state = backends.StateOutOfMemory
		case j.behaviour.ExitCode != 0 || j.behaviour.Signal != 0:
			state = backends.StateFailed
		}
		s.end(j, state, j.behaviour.ExitCode, j.behaviour.Signal)
	case termEnds:
		s.end(j, j.cause, 0, 15)
	case graceEnds:
		s.end(j, j.cause, 0, 9)
	case limitEnds:
		s.terminate(j, backends.StateTimeout, "TimeLimit", j.spec.Grace)
	case becomesEligible:
		j.reason = "Priority"
	case reservationTurns:
		s.endReservations()
	case isForgotten:
		if s.jobs[j.id] == j {
			delete(s.jobs, j.id)
		}
	}
}
