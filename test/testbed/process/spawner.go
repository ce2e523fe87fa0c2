package process

import (
	"os/exec"
	"runtime"
)

// spawner starts programs from one operating-system thread that lives as long
// as it is needed. The kernel ties "kill the child when its parent dies" to the
// thread that forked, so a child that was forked on a thread of a goroutine
// that ended early would be killed with it.
type spawner struct {
	requests chan *exec.Cmd
	results  chan error
}

func newSpawner() *spawner {
	s := &spawner{requests: make(chan *exec.Cmd), results: make(chan error)}
	go func() {
		runtime.LockOSThread()
		for cmd := range s.requests {
			s.results <- cmd.Start()
		}
		// Unlocked, the thread goes back to the pool rather than ending.
		runtime.UnlockOSThread()
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	s.requests <- cmd
	return <-s.results
}

func (s *spawner) close() { close(s.requests) }
