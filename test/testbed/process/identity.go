package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// stat is what /proc/<pid>/stat says of a process that matters here.
type stat struct {
	state byte
	ppid  int
	// start is the time since boot in clock ticks. Together with the pid it names
	// a process for as long as the machine is up: pids are reused, the pair is not.
	start uint64
}

// readStat returns os.ErrNotExist when there is no such process.
func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	// The program's name is in parentheses and may itself hold any character, so
	// the fields are counted from the last closing one.
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("parse stat of process %d: no closing parenthesis", pid)
	}
	fields := strings.Fields(string(raw[end+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("parse stat of process %d: %d fields", pid, len(fields))
	}
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, fmt.Errorf("parse stat of process %d: %w", pid, err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("parse stat of process %d: %w", pid, err)
	}
	return stat{state: fields[0][0], ppid: ppid, start: start}, nil
}

// bootID names the current boot of the machine: start times of another boot
// say nothing.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// Identity names one process of one boot.
type Identity struct {
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // clock ticks since boot
	BootID string `json:"bootID"`
}

// Identify returns the identity of a live process.
func Identify(pid int) (Identity, error) {
	st, err := readStat(pid)
	if err != nil {
		return Identity{}, fmt.Errorf("identify process %d: %w", pid, err)
	}
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: st.start, BootID: boot}, nil
}

// Alive reports whether that very process runs. One that has ended and only
// waits to be reaped does not run.
func (id Identity) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	st, err := readStat(id.PID)
	if err != nil || st.start != id.Start || st.state == 'Z' || st.state == 'X' {
		return false
	}
	boot, err := bootID()
	return err == nil && boot == id.BootID
}

// signal delivers sig to that very process. A process that is gone is not an error.
func (id Identity) signal(sig os.Signal) error {
	p, err := os.FindProcess(id.PID) // a pidfd: the pid cannot be reused under it
	if err != nil {
		return fmt.Errorf("find process %d: %w", id.PID, err)
	}
	defer func() { _ = p.Release() }()
	if !id.Alive() {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", id.PID, err)
	}
	return nil
}
