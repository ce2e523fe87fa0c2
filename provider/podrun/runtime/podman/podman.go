// Package podman runs containers with rootless podman, each with a storage of its
// own in the pod's scratch space: no home directory, no daemon, and no subordinate
// ids are needed. The program is root in the container, which is the job's user
// outside. Source: podman-run(1), versions 4.3 to 5.x.
package podman

import (
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Runtime is the runtime.
type Runtime struct {
	// Crun has podman use crun, which can do without cgroups; else it is runc,
	// which can do with those of version 1 that crun refuses.
	Crun bool
}

// Image reports whether containers run images.
func (Runtime) Image() bool { return true }

// Run is the sandbox of c's main program.
func (r Runtime) Run(c *runtime.Container) (stage.Sandbox, error) {
	if strings.ContainsAny(c.Rootfs, ":") {
		return stage.Sandbox{}, &stage.Failure{Kind: "stage", Message: "the image's directory " + c.Rootfs + " has a colon, which podman cannot name"}
	}
	argv := []string{"podman", "--log-level=fatal", "--cgroup-manager=cgroupfs", "--events-backend=none", "--storage-driver=vfs",
		"--root=" + c.Scratch + "/storage", "--runroot=" + c.Brief + "/run", "--tmpdir=" + c.Brief + "/tmp"}
	if r.Crun {
		argv = append(argv, "--runtime=crun", "run", "--cgroups=disabled")
	} else {
		argv = append(argv, "--runtime=runc", "run")
	}
	pidFile := c.Scratch + "/pid"
	argv = append(argv, "--rm", "--pull=never", "--name="+c.Name, "--pidfile="+pidFile, "--preserve-fds=2", "--log-driver=none",
		"--network=host", "--hostname="+c.Hostname, "--no-hosts", "--user=0:0", "--passwd=false", "--workdir=/",
		"--cap-drop=all", "--security-opt=label=disable")
	if c.HostPID {
		argv = append(argv, "--pid=host")
	}
	if c.HostIPC {
		argv = append(argv, "--ipc=host")
	}
	if c.Main.ReadOnlyRoot {
		argv = append(argv, "--read-only", "--read-only-tmpfs=false")
	}
	for _, m := range c.Mounts() {
		option, err := mount(m)
		if err != nil {
			return stage.Sandbox{}, &stage.Failure{Kind: "mount", Field: m.Field, Message: err.Error()}
		}
		argv = append(argv, "--mount="+option)
	}
	for _, id := range c.NVIDIA {
		argv = append(argv, "--device=nvidia.com/gpu="+id)
	}
	if c.AMD {
		argv = append(argv, "--device=/dev/kfd", "--device=/dev/dri")
	}
	// The overlay, ":O", takes the program's changes and is lost with the container.
	argv = append(argv, "--rootfs", c.Rootfs+":O", runtime.InitPath, stage.StageCommand)
	return stage.Sandbox{Argv: runtime.Words(argv...), Env: c.Env("TMPDIR=" + c.Scratch), Dirs: []string{"/"}, Bare: true, Next: c.Inner(c.Main), Keeps: true,
		PIDFile: pidFile, Terminal: c.Main.Terminal}, nil
}

// mount writes a mount as podman reads it.
func mount(m stage.Mount) (string, error) {
	fields := []string{"type=bind", "source=" + m.Source, "target=" + m.Target}
	if m.ReadOnly {
		fields = append(fields, "ro=true")
	}
	return runtime.Record(fields...)
}

// Exec is the sandbox of a further program in the running container whose main
// process is pid.
func (Runtime) Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error) {
	return c.Join(pid, !c.HostPID, what), nil
}
