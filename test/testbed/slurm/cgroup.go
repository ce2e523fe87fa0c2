package slurm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// memoryCgroups is where the memory controller of cgroups of version 1 is mounted. With
// version 2 Slurm 22.05 wants systemd, or the top of the tree to itself.
const memoryCgroups = "/sys/fs/cgroup/memory"

// MemoryLimited returns nil where a cluster can keep jobs to their memory, or says why
// it cannot.
func MemoryLimited() error {
	if _, err := os.Stat(filepath.Join(memoryCgroups, "memory.limit_in_bytes")); err != nil {
		return errors.New("this machine has no memory controller of cgroups of version 1, which Slurm could use beside another manager")
	}
	if err := unix.Access(memoryCgroups, unix.W_OK); err != nil {
		return &fs.PathError{Op: "make groups in", Path: memoryCgroups, Err: err}
	}
	return nil
}

// cgroupConf keeps steps to what their job asked for.
func cgroupConf() string {
	return "CgroupPlugin=cgroup/v1\nCgroupMountpoint=" + filepath.Dir(memoryCgroups) + "\nConstrainRAMSpace=yes\n"
}

// removeCgroups removes the groups that the daemons of hosts leave, which are named
// after the hosts. There is nothing to remove when no job was kept to its memory.
func (c *Cluster) removeCgroups() error {
	deadline := time.Now().Add(stopGrace)
	for {
		err := c.tryRemoveCgroups()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-time.After(20 * time.Millisecond) // the kernel takes the dead out one by one
	}
}

func (c *Cluster) tryRemoveCgroups() error {
	var errs []error
	for _, h := range c.record.Hosts {
		var found []string
		top := filepath.Join(memoryCgroups, "slurm_"+h.Name)
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
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
