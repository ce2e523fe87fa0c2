// Package charliecloud runs containers with ch-run, which needs nothing but user
// namespaces. Source: ch-run(1), versions 0.26 to 0.38.
//
// ch-run knows no read-only binds, makes no mount points and writes into the
// image when it may write: so the stage lays an overlay over the image first and
// prepares what is bound.
package charliecloud

import (
	"fmt"
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
	argv := []string{"ch-run"}
	if !view.ReadOnly {
		argv = append(argv, "--write")
	}
	for _, b := range view.Binds {
		if strings.Contains(b.Target, ":") {
			return stage.Sandbox{}, &stage.Failure{Kind: "mount", Field: b.Field, Message: fmt.Sprintf("%q has a colon, which ch-run cannot mount at", b.Target)}
		}
		argv = append(argv, "--bind="+b.At+":"+b.Target)
	}
	argv = append(argv, view.Dir, "--", runtime.InitPath, stage.StageCommand)
	s := stage.Sandbox{Argv: runtime.Words(argv...), Env: c.Env("TMPDIR=" + c.Scratch + "/tmp"), Dirs: []string{"/"}, Mounts: mounts, MountDir: c.Main.MountDir,
		View: view, Next: c.Inner(c.Main), Terminal: c.Main.Terminal}
	if len(c.NVIDIA) > 0 {
		s.Setup = [][]string{{"nvidia-container-cli", "--user", "configure", "--no-cgroups", "--compute", "--utility",
			"--device=" + strings.Join(c.NVIDIA, ","), view.Dir}}
	}
	return s, nil
}

// Exec is the sandbox of a further program in the running container whose main
// process is pid.
func (Runtime) Exec(c *runtime.Container, pid int, what stage.Sandbox) (stage.Sandbox, error) {
	return c.Join(pid, false, what), nil
}
