package main

import (
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/pod"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/apptainer"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/charliecloud"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/enroot"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/host"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/podman"
)

// runtimes are all there are, by the names that BatchClusters use.
func runtimes() map[string]pod.Runtime {
	return map[string]pod.Runtime{
		"host":         host.Runtime{},
		"apptainer":    apptainer.Runtime{},
		"charliecloud": charliecloud.Runtime{},
		"enroot":       enroot.Runtime{},
		"podman":       podman.Runtime{Crun: crun()},
	}
}

// crun reports whether podman can use crun here. It refuses the mixture of
// cgroup versions that some hosts have, and runc wants a cgroup of its own with
// version 2: so crun is for that, where it is installed.
func crun() bool {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return false
	}
	_, err := exec.LookPath("crun")
	return err == nil
}
