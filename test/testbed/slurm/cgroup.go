package slurm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is where machines mount their control groups, of version 1 with a folder for
// each controller, of version 2 as they are.
const cgroups = "/sys/fs/cgroup"

// hierarchy is where Slurm finds the memory controller.
type hierarchy struct {
	version int
	top     string // the directory of the root group
}

// memoryHierarchy finds the memory controller, which is of one version or the other.
func memoryHierarchy() (hierarchy, error) {
	v1 := hierarchy{1, filepath.Join(cgroups, "memory")}
	if _, err := os.Stat(filepath.Join(v1.top, "memory.limit_in_bytes")); err == nil {
		return v1, nil
	}
	v2 := hierarchy{2, cgroups}
	controllers, err := os.ReadFile(filepath.Join(v2.top, "cgroup.controllers"))
	if err != nil {
		return hierarchy{}, fmt.Errorf("this machine has no memory controller of control groups: %w", err)
	}
	if !slices.Contains(strings.Fields(string(controllers)), "memory") {
		return hierarchy{}, fmt.Errorf("%s offers no memory controller, but %s", cgroups, strings.TrimSpace(string(controllers)))
	}
	return v2, nil
}

// MemoryLimited returns nil where a cluster can keep jobs to their memory, or says why
// it cannot: as root on a machine that is no container it can. With version 2 it does
// once what every such cluster does: in a container the group at the top, which is
// written like any other, holds processes, and such a group hands no controllers on.
func MemoryLimited() error {
	h, err := memoryHierarchy()
	if err != nil {
		return err
	}
	if err := unix.Access(h.top, unix.W_OK); err != nil {
		return &fs.PathError{Op: "make groups in", Path: h.top, Err: err}
	}
	return h.prepare()
}

// prepare makes what Slurm expects of a machine with version 2: without systemd's help,
// which the daemons of a testbed do without, it makes the last group of a path only. Slurm
// 22.05 overlooks the last controller of a group (measured), so that the memory's is
// handed on with one that comes after it, as systemd does. After an error no new group
// is left.
func (h hierarchy) prepare() (err error) {
	if h.version == 1 {
		return nil
	}
	slice := filepath.Join(h.top, "system.slice")
	made := os.Mkdir(slice, 0o755)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return made
	}
	defer func() {
		if err != nil && made == nil {
			_ = os.Remove(slice)
		}
	}()
	for _, group := range []string{h.top, slice} {
		if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+memory +pids"), 0o644); err != nil {
			return fmt.Errorf("hand the controllers of memory and processes on: %w", err)
		}
	}
	return nil
}

// conf keeps steps to what their job asked for, also where what is too much for them
// could go to swap space.
func (h hierarchy) conf() string {
	lines := []string{fmt.Sprintf("CgroupPlugin=cgroup/v%d", h.version), "CgroupMountpoint=" + cgroups, "ConstrainRAMSpace=yes"}
	if h.version == 2 {
		// The testbed's daemons are no services of systemd.
		lines = append(lines, "IgnoreSystemd=yes", "CgroupAutomount=yes")
	}
	if h.swaps() {
		lines = append(lines, "ConstrainSwapSpace=yes")
	}
	return strings.Join(lines, "\n") + "\n"
}

// swaps reports whether there is swap space that groups can be kept from.
func (h hierarchy) swaps() bool {
	list, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Count(string(list), "\n") < 2 { // the first line is a heading
		return false
	}
	_, err = os.Stat(filepath.Join(h.top, "memory.memsw.limit_in_bytes"))
	return h.version == 2 || err == nil
}

// groupOf is the group that Slurm makes for all that runs on a host.
func (h hierarchy) groupOf(host string) string {
	if h.version == 1 {
		return filepath.Join(h.top, "slurm_"+host)
	}
	return filepath.Join(h.top, "system.slice", host+"_slurmstepd.scope")
}

// cgroupConf is read by every daemon.
func (c Config) cgroupConf() (string, error) {
	if !c.LimitMemory {
		// The plugin for version 1 does nothing until it is asked to, wherever it is; that
		// for version 2 moves daemons to other groups.
		return "CgroupPlugin=cgroup/v1\n", nil
	}
	h, err := memoryHierarchy()
	if err == nil {
		err = h.prepare()
	}
	return h.conf(), err
}

// removeCgroups removes the groups that the daemons of hosts leave, which are named
// after the hosts. There is nothing to remove when no job was kept to its memory.
func (c *Cluster) removeCgroups() error {
	h, err := memoryHierarchy()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(stopGrace)
	for {
		err := c.tryRemoveCgroups(h)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(20 * time.Millisecond) // the kernel takes the dead out one by one
	}
}

func (c *Cluster) tryRemoveCgroups(in hierarchy) error {
	var errs []error
	for _, h := range c.record.Hosts {
		var found []string
		_ = filepath.WalkDir(in.groupOf(h.Name), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return nil // what is gone needs no removal
		})
		slices.Reverse(found) // those within others first
		for _, dir := range found {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}
