// Package enroot runs containers with enroot. Source: the documentation of
// enroot 3.x (start, exec, image format, configuration).
//
// enroot knows containers as directories beneath ENROOT_DATA_PATH and writes into
// them: so the stage lays an overlay over the image first and gives it that.
package enroot

import (
	"fmt"
	"path"
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Runtime is the runtime.
type Runtime struct{}

// Image reports whether containers run images.
func (Runtime) Image() bool { return true }

// Run is the sandbox of c's main program.
func (Runtime) Run(c *runtime.Container) (stage.Sandbox, error) {
	view, mounts := c.View([]string{"/dev", "/proc", "/sys"})
	argv := []string{"enroot", "start"}
	if !view.ReadOnly {
		argv = append(argv, "--rw")
	}
	for _, b := range view.Binds {
		// The format is that of fstab, with colons for spaces.
		if strings.ContainsAny(b.Target, ": \t\n\\#") {
			return stage.Sandbox{}, &stage.Failure{Kind: "mount", Field: b.Field, Message: fmt.Sprintf("%q has a colon, space, backslash or '#', which enroot cannot mount at", b.Target)}
		}
		option := b.At + ":" + b.Target + ":none:rbind"
		if b.ReadOnly {
			option += ",ro"
		}
		argv = append(argv, "--mount="+option)
	}
	argv = append(argv, path.Base(view.Dir), runtime.InitPath, stage.StageCommand)
	env := []string{"ENROOT_DATA_PATH=" + path.Dir(view.Dir), "ENROOT_CACHE_PATH=" + c.Scratch + "/cache", "ENROOT_RUNTIME_PATH=" + c.Scratch + "/run",
		"ENROOT_TEMP_PATH=" + c.Scratch, "ENROOT_CONFIG_PATH=" + c.Scratch + "/config", "ENROOT_MOUNT_HOME=n", "ENROOT_LOGIN_SHELL=n",
		// enroot's own hook gives the GPUs that this names.
		"NVIDIA_VISIBLE_DEVICES=" + visible(c.NVIDIA), "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
	return stage.Sandbox{Argv: runtime.Words(argv...), Env: c.Env(env...), Dirs: []string{"/"}, Mounts: mounts, MountDir: c.Main.MountDir,
		View: view, Next: c.Inner(c.Main), Keeps: true, Terminal: c.Main.Terminal}, nil
}

func visible(ids []string) string {
	if len(ids) == 0 {
		return "void"
	}
	return strings.Join(ids, ",")
}

// Exec is the sandbox of a further program in the running container whose main
// process is pid.
func (Runtime) Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error) {
	return c.Join(pid, false, what), nil
}
