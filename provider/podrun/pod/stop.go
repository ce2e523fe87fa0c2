package pod

import (
	"sync"
	"time"
)

// cause says why a pod is stopped.
type cause struct {
	reason, message string
	// failed makes the pod Failed even when all its containers end well.
	failed bool
}

// stopper asks one or more containers to end, and knows by when.
type stopper struct {
	requested chan struct{} // closed by the first request

	mu       sync.Mutex
	cause    cause
	asked    bool
	deadline time.Time
	moved    chan struct{} // closed when the deadline comes nearer
}

func newStopper() *stopper {
	return &stopper{requested: make(chan struct{}), moved: make(chan struct{})}
}

// request asks for the end within grace. The first cause stays; a later request
// can only bring the deadline nearer.
func (s *stopper) request(grace time.Duration, c cause) {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := time.Now().Add(max(grace, 0))
	if s.asked && !deadline.Before(s.deadline) {
		return
	}
	if !s.asked {
		s.asked, s.cause = true, c
		close(s.requested)
	}
	s.deadline = deadline
	close(s.moved)
	s.moved = make(chan struct{})
}

// why is the cause of the first request; ok is false when there was none.
func (s *stopper) why() (c cause, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause, s.asked
}

func (s *stopper) stopping() bool {
	select {
	case <-s.requested:
		return true
	default:
		return false
	}
}

// left is the time until the deadline.
func (s *stopper) left() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Until(s.deadline)
}

// wait blocks until done is closed or the deadline has passed, and reports the
// former. There must have been a request.
func (s *stopper) wait(done <-chan struct{}) bool {
	for {
		s.mu.Lock()
		deadline, moved := s.deadline, s.moved
		s.mu.Unlock()
		timer := time.NewTimer(time.Until(deadline))
		select {
		case <-done:
			timer.Stop()
			return true
		case <-timer.C:
			return false
		case <-moved:
			timer.Stop()
		}
	}
}
