// Package apptainer runs containers with apptainer (or singularity under that
// name) installed for unprivileged user namespaces. Source: the Apptainer user
// guide, versions 1.1 to 1.4.
//
// Kubernetes' command and args are never left to the image's run script: podrun
// resolves the image's ENTRYPOINT and CMD itself and is what "exec" executes, so
// that nothing is quoted, expanded or evaluated by a shell.
package apptainer

import (
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Runtime is the runtime.
type Runtime struct{}

// Image reports whether containers run images.
func (Runtime) Image() bool { return true }

// Run is the sandbox of c's main program. The unpacked image is a sandbox
// directory to apptainer.
func (Runtime) Run(c *runtime.Container) (stage.Sandbox, error) {
	// --contain, --cleanenv and --no-* keep the user's home, environment and the
	// site's own binds out; --compat would add namespaces without a choice.
	argv := []string{"apptainer", "--quiet", "exec", "--userns", "--contain", "--cleanenv", "--no-eval", "--no-umask", "--no-home", "--no-init",
		"--no-mount=home,cwd,tmp,hostfs,bind-paths", "--pwd=/"}
	if !c.HostPID {
		argv = append(argv, "--pid")
	}
	if !c.HostIPC {
		argv = append(argv, "--ipc")
	}
	argv = append(argv, "--uts", "--hostname="+c.Hostname)
	if !c.Main.ReadOnlyRoot {
		argv = append(argv, "--writable-tmpfs")
	}
	if len(c.NVIDIA) > 0 {
		argv = append(argv, "--nv")
	}
	if c.AMD {
		argv = append(argv, "--rocm")
	}
	mounts := append([]stage.Mount{{Source: c.Scratch + "/tmp", Target: "/tmp", ReadOnly: c.Main.ReadOnlyRoot, Field: "image"}}, c.Mounts()...)
	for _, m := range mounts {
		option, err := mount(m)
		if err != nil {
			return stage.Sandbox{}, &stage.Failure{Kind: "mount", Field: m.Field, Message: err.Error()}
		}
		argv = append(argv, "--mount="+option)
	}
	argv = append(argv, c.Rootfs, runtime.InitPath, stage.StageCommand)
	return stage.Sandbox{Argv: runtime.Words(argv...), Env: c.Env("APPTAINER_CACHEDIR="+c.Scratch+"/cache", "APPTAINER_TMPDIR="+c.Scratch),
		Dirs: []string{"/"}, Bare: true, Next: c.Inner(c.Main), Keeps: true, Terminal: c.Main.Terminal}, nil
}

// mount writes a mount as apptainer reads it.
func mount(m stage.Mount) (string, error) {
	fields := []string{"type=bind", "source=" + m.Source, "destination=" + m.Target}
	if m.ReadOnly {
		fields = append(fields, "ro")
	}
	return runtime.Record(fields...)
}

// Exec is the sandbox of a further program in the running container whose main
// process is pid.
func (Runtime) Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error) {
	return c.Join(pid, !c.HostPID, what), nil
}
