package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// TokenVariable is the environment variable that marks a container's processes
// for ever, also those that left its session.
const TokenVariable = "ISTHMUS_CONTAINER_ID"

// ExecVariable marks what one exec has started, beside its container's token.
const ExecVariable = "ISTHMUS_EXEC_ID"

// Mark tells a container's processes from others.
type Mark struct {
	PID     int    // the main process; its session counts too
	MountNS string // /proc/<pid>/ns/mnt of the container, "" when it has none of its own
	Token   string // value of TokenVariable
	Exec    string // value of ExecVariable, "" outside an exec
	// Main is the process to send signals to; it differs from PID when that is a
	// runtime's program.
	Main int
}

// Entered finds the first process that bears the mark and is in another mount
// namespace than this process: the container's own, started by a runtime's
// program. ok is false when there is none.
func (m Mark) Entered() (pid int, ok bool) {
	pids, err := m.pids()
	if err != nil {
		return 0, false
	}
	ours := MountNS(os.Getpid())
	all, err := living()
	if err != nil {
		return 0, false
	}
	parents := map[int]int{}
	for _, p := range all {
		parents[p.pid] = p.parent
	}
	for _, pid := range pids {
		ns := MountNS(pid)
		// The container's first process is the one whose parent is not in there.
		if ns != "" && ns != ours && root(pid) != root(os.Getpid()) && (MountNS(parents[pid]) != ns || root(parents[pid]) != root(pid)) {
			return pid, true
		}
	}
	return 0, false
}

// root tells a process's root directory from others'.
func root(pid int) string {
	st, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "root"))
	if err != nil {
		return ""
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprint(sys.Dev, ":", sys.Ino)
	}
	return ""
}

// PinMountNS is MountNS, and keeps the namespace alive until release is called.
// Its number is all that tells it from others, and the kernel gives the number
// of a namespace that is gone to the next one: without the pin, the search for
// what one container left behind could find, and kill, a newer one's processes.
func PinMountNS(pid int) (name string, release func()) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if err != nil {
		return "", func() {}
	}
	// Read through the pin itself: the process may be another by now.
	name, err = os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd()))))
	if err != nil {
		_ = f.Close() // it was only opened
		return "", func() {}
	}
	return name, func() { _ = f.Close() }
}

// MountNS reads which mount namespace a process is in, "" when it is not known.
func MountNS(pid int) string {
	s, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if err != nil {
		return ""
	}
	return s
}

// info is one living process.
type info struct {
	pid, parent, session int
}

// SignalSession sends sig to the main process's session: its process group at
// once, then what has groups of its own.
func (m Mark) SignalSession(sig syscall.Signal) {
	_ = syscall.Kill(-m.PID, sig)
	all, err := living()
	if err != nil {
		return
	}
	for _, p := range all {
		if p.session != m.PID {
			continue
		}
		if group, err := syscall.Getpgid(p.pid); err == nil && group != m.PID {
			_ = syscall.Kill(p.pid, sig)
		}
	}
}

// KillAll kills every process of the container until none is left. It gives up
// after limit and says what would not die.
func (m Mark) KillAll(limit time.Duration) error {
	return killUntilGone(limit, m.pids)
}

// KillDescendants kills every descendant of this process until none is left. It
// gives up after limit and says what would not die.
func KillDescendants(limit time.Duration) error {
	return killUntilGone(limit, func() ([]int, error) {
		all, err := living()
		if err != nil {
			return nil, err
		}
		return descend(all, func(p info) bool { return p.parent == os.Getpid() }), nil
	})
}

func killUntilGone(limit time.Duration, find func() ([]int, error)) error {
	deadline := time.Now().Add(limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		pids, err := find()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v survive SIGKILL", pids[:min(len(pids), 10)])
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(wait) // the kernel tears them down in its own time; there is nothing to wait on for a non-child
	}
}

// pids finds the container's living processes: descendants of this process that
// bear its mark, and their descendants.
func (m Mark) pids() ([]int, error) {
	all, err := living()
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	mine := map[int]bool{}
	for _, pid := range descend(all, func(p info) bool { return p.parent == self }) {
		mine[pid] = true
	}
	return descend(all, func(p info) bool { return mine[p.pid] && m.bears(p) }), nil
}

func (m Mark) bears(p info) bool {
	if p.pid == m.PID || p.session == m.PID {
		return true
	}
	if m.MountNS != "" && MountNS(p.pid) == m.MountNS {
		return true
	}
	if m.Token == "" && m.Exec == "" {
		return false
	}
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(p.pid), "environ"))
	if err != nil {
		return false
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, 8<<20))
	if err != nil {
		return false
	}
	token, exec := []byte(TokenVariable+"="+m.Token), []byte(ExecVariable+"="+m.Exec)
	return slices.ContainsFunc(bytes.Split(env, []byte{0}), func(v []byte) bool {
		return m.Token != "" && bytes.Equal(v, token) || m.Exec != "" && bytes.Equal(v, exec)
	})
}

// descend gives the processes that are roots or descend from one, in order of id.
func descend(all []info, root func(info) bool) []int {
	children := map[int][]int{}
	var queue, out []int
	for _, p := range all {
		children[p.parent] = append(children[p.parent], p.pid)
		if root(p) {
			queue = append(queue, p.pid)
		}
	}
	seen := map[int]bool{}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if seen[pid] {
			continue
		}
		seen[pid] = true
		out = append(out, pid)
		queue = append(queue, children[pid]...)
	}
	slices.Sort(out)
	return out
}

// living lists the processes that are not zombies.
func living() ([]info, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var out []info
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", name, "stat"))
		if err != nil {
			continue // ended since
		}
		if p, dead, err := parseStat(pid, data); err == nil && !dead {
			out = append(out, p)
		}
	}
	return out, nil
}

// parseStat reads /proc/<pid>/stat. The command's name may hold anything, so the
// fields are counted from its last parenthesis.
func parseStat(pid int, data []byte) (p info, dead bool, err error) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return info{}, false, errors.New("no command")
	}
	f := bytes.Fields(data[i+1:])
	if len(f) < 4 {
		return info{}, false, errors.New("too few fields")
	}
	parent, err1 := strconv.Atoi(string(f[1]))
	session, err2 := strconv.Atoi(string(f[3]))
	if err := errors.Join(err1, err2); err != nil {
		return info{}, false, err
	}
	return info{pid: pid, parent: parent, session: session}, f[0][0] == 'Z' || f[0][0] == 'X', nil
}
