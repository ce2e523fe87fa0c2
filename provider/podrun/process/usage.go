package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a set of processes has used.
type Usage struct {
	CPU time.Duration // of living processes and of the children they have waited for
	// RSS is anonymous memory, WorkingSet that and the files mapped, in bytes. What
	// processes share is counted in parts, as far as the kernel tells (see maxExact).
	RSS, WorkingSet uint64
	PIDs            []int
}

// maxExact is the size up to which a process's memory is counted exactly: the
// kernel walks its page tables for that, and the process waits meanwhile.
const maxExact = 2 << 30

// ticks is the unit of times in /proc/<pid>/stat: USER_HZ is 100 on every
// architecture that Linux has (time(7)).
const tick = time.Second / 100

// Sample measures what the processes of each container use now. A process that
// bears two marks counts for the first.
func Sample(marks []Mark) ([]Usage, error) {
	all, err := family()
	if err != nil {
		return nil, err
	}
	out := make([]Usage, len(marks))
	taken := map[int]bool{}
	for i, m := range marks {
		for _, pid := range descend(all, m.bears) {
			if taken[pid] {
				continue
			}
			taken[pid] = true
			one, err := measure(pid)
			if err != nil {
				continue // ended since
			}
			out[i].CPU += one.CPU
			out[i].RSS += one.RSS
			out[i].WorkingSet += one.WorkingSet
			out[i].PIDs = append(out[i].PIDs, pid)
		}
	}
	return out, nil
}

// measure reads one process.
func measure(pid int) (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Usage{}, err
	}
	own, children, err := parseTimes(data)
	if err != nil {
		return Usage{}, err
	}
	// The clock of the process is finer than its ticks (clock_getcpuclockid(3)).
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err == nil { //nolint:gosec // the kernel's own encoding
		own = time.Duration(ts.Nano())
	}
	u := Usage{CPU: own + children}
	if data, err = os.ReadFile(filepath.Join(dir, "statm")); err != nil {
		return Usage{}, err
	}
	var size, resident, shared uint64
	if _, err := fmt.Sscan(string(data), &size, &resident, &shared); err != nil {
		return Usage{}, fmt.Errorf("read statm: %w", err)
	}
	page := uint64(os.Getpagesize()) //nolint:gosec // positive
	u.WorkingSet, u.RSS = resident*page, (resident-min(shared, resident))*page
	if u.WorkingSet > maxExact {
		return u, nil
	}
	if data, err = os.ReadFile(filepath.Join(dir, "smaps_rollup")); err == nil {
		if pss, ok := field(data, "Pss:"); ok {
			u.WorkingSet = pss
		}
		if anon, ok := field(data, "Pss_Anon:"); ok {
			u.RSS = anon
		}
	}
	return u, nil
}

// field reads a line "Name:   12 kB".
func field(data []byte, name string) (uint64, bool) {
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); len(f) >= 2 && string(f[0]) == name {
			n, err := strconv.ParseUint(string(f[1]), 10, 64)
			return n << 10, err == nil
		}
	}
	return 0, false
}

// parseTimes reads utime and stime, cutime and cstime (proc_pid_stat(5), fields
// 14 to 17).
func parseTimes(data []byte) (own, children time.Duration, err error) {
	i := bytes.LastIndexByte(data, ')')
	f := bytes.Fields(data[i+1:])
	if i < 0 || len(f) < 15 {
		return 0, 0, errors.New("read stat: too few fields")
	}
	var n [4]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(string(f[11+i]), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("read stat: %w", err)
		}
	}
	return time.Duration(n[0]+n[1]) * tick, time.Duration(n[2]+n[3]) * tick, nil
}
