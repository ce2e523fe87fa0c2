package pod

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// oomKills counts the processes that the kernel has killed for lack of memory in
// this process's cgroup and those above it, as far as they can be read. A count
// that grows while a container runs explains its SIGKILL.
func oomKills() int64 {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	var sum int64
	for line := range strings.Lines(string(data)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var top, file string
		switch {
		case parts[1] == "":
			top, file = "/sys/fs/cgroup", "memory.events.local"
		case strings.Contains(","+parts[1]+",", ",memory,"):
			top, file = "/sys/fs/cgroup/memory", "memory.oom_control"
		default:
			continue
		}
		for dir := filepath.Clean("/" + parts[2]); ; dir = filepath.Dir(dir) {
			sum += counter(filepath.Join(top, dir, file), "oom_kill")
			if dir == "/" {
				break
			}
		}
	}
	return sum
}

func counter(file, key string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name == key {
			n, err := strconv.ParseInt(value, 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}
