package jobdir

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Process identifies a process for good: a number alone is used again by
// another process, after a reboot even soon.
type Process struct {
	PID int `json:"pid"`
	// StartTicks is the start time from /proc/<pid>/stat, in clock ticks since boot.
	StartTicks uint64 `json:"startTicks"`
	// Boot is the kernel's identity of this boot.
	Boot string `json:"boot"`
}

// Stat is what /proc/<pid>/stat says of a process.
type Stat struct {
	Parent, Session int
	Zombie          bool
	StartTicks      uint64
}

// Identify describes the process that has the number pid now.
func Identify(pid int) (Process, error) {
	st, err := ReadStat(pid)
	if err != nil {
		return Process{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Process{}, fmt.Errorf("read boot id: %w", err)
	}
	return Process{PID: pid, StartTicks: st.StartTicks, Boot: strings.TrimSpace(string(boot))}, nil
}

// Lives reports whether p itself still runs; a zombie does not.
func (p Process) Lives() bool {
	now, err := Identify(p.PID)
	if err != nil || now != p {
		return false
	}
	st, err := ReadStat(p.PID)
	return err == nil && !st.Zombie && st.StartTicks == p.StartTicks
}

// Signal sends sig to p when it still runs. A process that is gone is success.
func (p Process) Signal(sig os.Signal) error {
	// FindProcess gets a handle (pidfd) of whatever has the number now. The
	// check comes after it: what passes the check is what gets the signal.
	h, err := os.FindProcess(p.PID)
	if err != nil {
		return nil
	}
	defer func() { _ = h.Release() }()
	if !p.Lives() {
		return nil
	}
	if err := h.Signal(sig); err != nil && p.Lives() {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// ReadStat reads /proc/<pid>/stat.
func ReadStat(pid int) (Stat, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return Stat{}, err
	}
	return parseStat(text)
}

// parseStat reads the fields after the program's name, which may itself hold
// spaces and parentheses.
func parseStat(text []byte) (Stat, error) {
	at := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[at+1:]))
	if at < 0 || len(fields) < 20 {
		return Stat{}, fmt.Errorf("process state %q is not understood", text)
	}
	var st Stat
	var errs [3]error
	st.Zombie = fields[0] == "Z" || fields[0] == "X"
	st.Parent, errs[0] = strconv.Atoi(fields[1])
	st.Session, errs[1] = strconv.Atoi(fields[3])
	st.StartTicks, errs[2] = strconv.ParseUint(fields[19], 10, 64)
	for _, err := range errs {
		if err != nil {
			return Stat{}, fmt.Errorf("process state %q: %w", text, err)
		}
	}
	return st, nil
}
