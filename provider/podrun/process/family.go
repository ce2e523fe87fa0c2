package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mostThreads bounds the threads whose children are asked for, one by one. Beyond
// it a look at all processes of the host costs no more.
const mostThreads = 1000

// errNoChildren says that the children of processes cannot be asked for here.
var errNoChildren = errors.New("the kernel does not tell the children of a process")

// family lists the living descendants of this process. It asks the kernel for
// children (proc_pid_task_children(5)), so that it costs as much as there are
// descendants: a host with hundreds of pods has thousands of processes, and each
// pod's runner would look at all of them. It may miss one whose sibling ends in
// that very moment, so it is for measuring and not for killing.
func family() ([]info, error) {
	out, err := walk(os.Getpid(), mostThreads)
	if err == nil {
		return out, nil
	}
	all, err := living()
	if err != nil {
		return nil, err
	}
	self, mine := os.Getpid(), map[int]bool{}
	for _, pid := range descend(all, func(p info) bool { return p.parent == self }) {
		mine[pid] = true
	}
	out = all[:0]
	for _, p := range all {
		if mine[p.pid] {
			out = append(out, p)
		}
	}
	return out, nil
}

// walk is family for any process. It fails where children cannot be asked for, and
// when there are more than most threads.
func walk(pid, most int) ([]info, error) {
	var out []info
	seen := map[int]bool{pid: true}
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		children, threads, err := childrenOf(queue[0], most)
		if err != nil {
			return nil, err
		}
		most -= threads
		for _, child := range children {
			if seen[child] {
				continue
			}
			seen[child] = true
			data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(child), "stat"))
			if err != nil {
				continue // ended since
			}
			if p, dead, err := parseStat(child, data); err == nil && !dead {
				out, queue = append(out, p), append(queue, child)
			}
		}
	}
	return out, nil
}

// childrenOf gives the children of all threads of a process, and how many those
// are. A process that has ended has none.
func childrenOf(pid, most int) (children []int, threads int, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	d, err := os.Open(dir)
	if err != nil {
		return nil, 0, nil // ended since
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, 0, nil // ended since
	}
	if len(names) > most {
		return nil, 0, fmt.Errorf("process %d has %d threads", pid, len(names))
	}
	told := false
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name, "children"))
		if err != nil {
			continue // a thread that has ended, or see below
		}
		told = true
		for _, word := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(word); err == nil {
				children = append(children, child)
			}
		}
	}
	if _, err := os.Stat(dir); !told && err == nil {
		return nil, 0, errNoChildren
	}
	return children, len(names), nil
}
