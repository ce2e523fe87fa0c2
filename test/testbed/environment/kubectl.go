package environment

import (
	"context"
	"os/exec"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// KubectlCommand prepares a run of kubectl as the administrator; the caller sets
// its outputs and runs it. It ends with ctx, and with the environment at the latest.
func (e *Environment) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.Kubectl, args...)
	cmd.Dir = e.Dir
	cmd.Env = []string{
		"KUBECONFIG=" + e.Kubeconfig,
		"HOME=" + e.Dir,                           // its cache of API groups
		process.Marker + "=" + programsDir(e.Dir), // Stop finds it by this
	}
	// Ctrl-C is for us; we end it through ctx.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
