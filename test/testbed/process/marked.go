package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Marked counts the live processes that have a text in their environment. Those of
// other users that cannot be read are not counted.
func Marked(text string) (int, error) {
	n := 0
	err := each(func(pid int, _ stat) {
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
		if err == nil && bytes.Contains(raw, []byte(text)) {
			n++
		}
	})
	return n, err
}

// Children are the live processes that a process started itself.
func Children(parent int) ([]Identity, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	var out []Identity
	err = each(func(pid int, st stat) {
		if st.ppid == parent {
			out = append(out, Identity{PID: pid, Start: st.start, BootID: boot})
		}
	})
	return out, err
}

// each calls back for every process that is alive.
func each(do func(pid int, st stat)) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat(pid); err == nil && st.state != 'Z' && st.state != 'X' {
			do(pid, st)
		}
	}
	return nil
}
