package pod

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
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

// killLimit bounds the wait for processes that SIGKILL does not end at once.
const killLimit = 10 * time.Second

// terminate ends a running container: preStop hook, stop signal, grace, SIGKILL.
// It returns when the main process has ended.
func (c *container) terminate(child *stage.Process, mark process.Mark, by *stopper) {
	c.update(func(s *manifest.Container) { s.Ready = false })
	if l := c.spec.Lifecycle; l != nil && l.PreStop != nil && by.left() > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := c.hook(ctx, l.PreStop); err != nil && ctx.Err() == nil {
				c.pod.warn(fmt.Errorf("container %s: preStop hook: %w", c.spec.Name, err))
				c.pod.event("Warning", "FailedPreStopHook", fmt.Sprintf("PreStopHook of container %s failed: %v", c.spec.Name, err))
			}
		}()
		either := make(chan struct{})
		go func() {
			defer close(either)
			select {
			case <-done:
			case <-child.Done():
			}
		}()
		by.wait(either)
		cancel()
		<-done
		<-either
	}
	if by.left() > 0 {
		if signal := c.stopSignal(); mark.Main != mark.PID {
			_ = syscall.Kill(mark.Main, signal) // the runtime's programs would pass it on, or not
		} else {
			mark.SignalSession(signal)
		}
		if by.wait(child.Done()) {
			return
		}
	}
	_ = syscall.Kill(-mark.PID, syscall.SIGKILL)
	if err := mark.KillAll(killLimit); err != nil {
		c.pod.warn(fmt.Errorf("container %s: %w", c.spec.Name, err))
	}
	<-child.Done()
}

// stopSignal is what asks the container to end.
func (c *container) stopSignal() syscall.Signal {
	if l := c.spec.Lifecycle; l != nil && l.StopSignal != nil {
		return unix.SignalNum(string(*l.StopSignal))
	}
	text := strings.ToUpper(c.image.Config.StopSignal)
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	if text != "" && !strings.HasPrefix(text, "SIG") {
		text = "SIG" + text
	}
	if n := unix.SignalNum(text); n != 0 {
		return n
	}
	return syscall.SIGTERM
}
