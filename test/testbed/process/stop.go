package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Stop ends the process: SIGTERM, and after grace SIGKILL. It returns once the
// process is gone and its record removed. Stopping one that ended is no error.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	if !p.waitGone(grace) {
		if err := p.signal(syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill %s: %w", p.Name, err)
		}
		if !p.waitGone(10 * time.Second) {
			return fmt.Errorf("stop %s: process %d is still there after SIGKILL", p.Name, p.PID)
		}
	}
	if p.exited != nil {
		<-p.exited
	}
	if err := os.Remove(p.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process at once, as a crash would. The record stays, so that
// the group still knows of it.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", p.Name, err)
	}
	if !p.waitGone(10 * time.Second) {
		return fmt.Errorf("kill %s: process %d is still there", p.Name, p.PID)
	}
	return nil
}

func (id Identity) waitGone(most time.Duration) bool {
	deadline := time.Now().Add(most)
	for id.Alive() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pollInterval) // it may not be our child, so there is nothing to wait on
	}
	return true
}

// StopAll ends all processes, the last one started first, each with the same
// grace. It goes on after an error and returns all of them.
func (g *Group) StopAll(grace time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	var left []*Process
	for _, p := range slices.Backward(g.members) {
		if err := p.Stop(grace); err != nil {
			errs = append(errs, err)
			left = append(left, p)
		}
	}
	slices.Reverse(left)
	g.members = left
	if g.spawner != nil {
		g.spawner.close()
		g.spawner = nil
	}
	return errors.Join(errs...)
}

// Found is a live process that belongs to a directory.
type Found struct {
	Identity
	Command string
}

// Belonging lists the live processes that carry the marker of one of the
// directories, or whose program lies below one, with all their descendants. The
// calling process is never among them.
func Belonging(dirs ...string) ([]Found, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	stats := map[int]stat{}
	children := map[int][]int{}
	var next []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		st, err := readStat(pid)
		if err != nil || st.state == 'Z' || st.state == 'X' {
			continue
		}
		stats[pid] = st
		children[st.ppid] = append(children[st.ppid], pid)
		if belongs(pid, dirs) {
			next = append(next, pid)
		}
	}
	seen := map[int]bool{os.Getpid(): true}
	var out []Found
	for len(next) > 0 {
		pid := next[0]
		next = next[1:]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		next = append(next, children[pid]...)
		cmdline, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		out = append(out, Found{
			Identity: Identity{PID: pid, Start: stats[pid].start, BootID: boot},
			Command:  strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " ")),
		})
	}
	slices.SortFunc(out, func(a, b Found) int { return a.PID - b.PID })
	return out, nil
}

func belongs(pid int, dirs []string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	exe, _ := os.Readlink(filepath.Join(proc, "exe"))
	env, _ := os.ReadFile(filepath.Join(proc, "environ"))
	for _, dir := range dirs {
		if strings.HasPrefix(exe, dir+"/") {
			return true
		}
		for v := range strings.SplitSeq(string(env), "\x00") {
			if v == Marker+"="+dir {
				return true
			}
		}
	}
	return false
}

// Sweep ends whatever Belonging finds: SIGTERM, and after grace SIGKILL, until
// nothing is left. It returns what it had to end, for a caller that wants to
// say so, and an error when something could not be ended.
func Sweep(grace time.Duration, dirs ...string) ([]Found, error) {
	var ended []Found
	// A process may have forked while it was being looked at, so it is looked at again.
	for round := range 5 {
		found, err := Belonging(dirs...)
		if err != nil || len(found) == 0 {
			return ended, err
		}
		ended = append(ended, found...)
		if round > 0 {
			grace = 0
		}
		for _, f := range found {
			if err := f.signal(syscall.SIGTERM); err != nil {
				return ended, err
			}
		}
		deadline := time.Now().Add(grace)
		for _, f := range found {
			if f.waitGone(time.Until(deadline)) {
				continue
			}
			if err := f.signal(syscall.SIGKILL); err != nil {
				return ended, err
			}
			f.waitGone(5 * time.Second)
		}
	}
	left, err := Belonging(dirs...)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("sweep %s: %d processes are still there, first %d (%s)",
			strings.Join(dirs, ", "), len(left), left[0].PID, left[0].Command)
	}
	return ended, err
}
