// Package process starts the processes of a pod and loses none of them: it
// adopts daemons whose parents have gone, reaps every child, and finds and
// kills what a container has left behind. It works for an unprivileged user
// and without a PID namespace.
//
// A process that uses this package must not start children by other means:
// the Reaper collects the exit of every child there is.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is a program to start.
type Spec struct {
	Path  string
	Argv  []string
	Env   []string
	Dir   string
	Files []*os.File // descriptors 0, 1, 2 and so on; nil entries are closed
	// Namespaces asks for a user and a mount namespace of its own, in which the
	// user keeps its ids and the program may mount.
	Namespaces bool
	// Override gives the program the right to any file of the user's whatever its
	// mode says: without it the kernel makes no overlays.
	Override bool
	// Terminal makes Files[0], a terminal, the controlling one of the session.
	Terminal bool
}

// Child is a started process, the leader of a session of its own.
type Child struct {
	pid    int
	done   chan struct{}
	status syscall.WaitStatus
}

// PID is the process id, which is also that of its session.
func (c *Child) PID() int { return c.pid }

// Done is closed once the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Status is how it ended; valid once Done is closed.
func (c *Child) Status() syscall.WaitStatus { return c.status }

// Reaper starts children and collects their ends and those of adopted orphans.
type Reaper struct {
	mu       sync.Mutex // held across fork and across wait4, so that no end precedes its registration
	children map[int]*Child
	ended    map[int]time.Duration

	starts  chan func()
	signals chan os.Signal
	quit    chan struct{}
	wg      sync.WaitGroup
}

// NewReaper makes this process the one that orphaned descendants fall to. There
// is at most one Reaper in a process.
func NewReaper() (*Reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of orphans: %w", err)
	}
	r := &Reaper{
		children: map[int]*Child{},
		ended:    map[int]time.Duration{},
		starts:   make(chan func()),
		signals:  make(chan os.Signal, 1),
		quit:     make(chan struct{}),
	}
	signal.Notify(r.signals, syscall.SIGCHLD)
	r.wg.Go(r.collect)
	r.wg.Go(r.startOnOneThread)
	return r, nil
}

// Close ends the Reaper's goroutines. Children go on.
func (r *Reaper) Close() {
	signal.Stop(r.signals)
	close(r.quit)
	r.wg.Wait()
}

// Start starts s. It blocks until the program was executed or failed to be.
func (r *Reaper) Start(s Spec) (*Child, error) {
	var c *Child
	var err error
	done := make(chan struct{})
	start := func() {
		defer close(done)
		c, err = r.fork(s)
	}
	select {
	case r.starts <- start:
		<-done
		return c, err
	case <-r.quit:
		return nil, errors.New("start process: the reaper is closed")
	}
}

// startOnOneThread forks on one thread that lives as long as the Reaper: the
// kernel delivers a child's parent-death signal when the forking thread ends.
func (r *Reaper) startOnOneThread() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	for {
		select {
		case f := <-r.starts:
			f()
		case <-r.quit:
			return
		}
	}
}

func (r *Reaper) fork(s Spec) (*Child, error) {
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}
	attr.Sys.Setctty = s.Terminal // Ctty is 0
	for _, f := range s.Files {
		if f == nil {
			attr.Files = append(attr.Files, ^uintptr(0))
		} else {
			attr.Files = append(attr.Files, f.Fd())
		}
	}
	if s.Namespaces {
		uid, gid := os.Geteuid(), os.Getegid()
		attr.Sys.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
		attr.Sys.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.Sys.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		attr.Sys.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
		if s.Override {
			attr.Sys.AmbientCaps = append(attr.Sys.AmbientCaps, unix.CAP_DAC_OVERRIDE)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(s.Path, s.Argv, attr)
	runtime.KeepAlive(s.Files)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Path, err)
	}
	c := &Child{pid: pid, done: make(chan struct{})}
	r.children[pid] = c
	return c, nil
}

// lookAgain is the time between looks for children whose signal was lost in a stop.
const lookAgain = 10 * time.Second

// collect waits for children.
func (r *Reaper) collect() {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		r.reap()
		select {
		case <-r.signals:
		case <-tick.C:
		case <-r.quit:
			return
		}
	}
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		var used syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, &used)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if len(r.ended) < maxEnded {
			r.ended[pid] = time.Duration(used.Utime.Nano() + used.Stime.Nano())
		}
		if c := r.children[pid]; c != nil {
			c.status = ws
			delete(r.children, pid)
			close(c.done)
		}
	}
}

// maxEnded bounds what is remembered of processes that have ended.
const maxEnded = 1 << 16

// Ended gives the processor time of each process that this one has waited for
// since the last call, with that of the children each had waited for itself.
func (r *Reaper) Ended() map[int]time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.ended
	r.ended = map[int]time.Duration{}
	return out
}
