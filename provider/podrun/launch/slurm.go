package launch

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// startSlurm runs one srun for the whole gang: Slurm numbers the tasks through
// the components, which is our rank.
func startSlurm(ctx context.Context, o Options, g *manifest.Gang) error {
	argv := srunArgs(g, o.PodArgs)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = o.Dir, srunEnv(o.Env, o.Restart)
	said := &listener{to: o.Stderr}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = o.Stdout, said, stderrDelay
	err := exitError("srun", cmd.Run())
	if err != nil && said.outOfMemory {
		err = fmt.Errorf("%w (%w)", errOutOfMemory, err)
	}
	return err
}

// srunArgs is the command line. Tasks and nodes are inherited from the job; what
// is not inherited in every version is said here, measured on 22.05:
//   - --cpus-per-task, else a task gets one CPU;
//   - --mem=0, all the job has on each node, else a step of several components
//     uses the first one's amount for all;
//   - --gpu-bind=per_task, else a typed GPU request makes a default binding that
//     leaves tasks which share a node without any GPU;
//   - --kill-on-bad-exit=0 and --wait=0: members that failed end alone.
func srunArgs(g *manifest.Gang, podArgs []string) []string {
	argv := []string{"srun"}
	for i, c := range g.Components {
		if i > 0 {
			argv = append(argv, ":")
		} else {
			argv = append(argv, "--kill-on-bad-exit=0", "--wait=0", "--export=ALL")
		}
		argv = append(argv, "--mem=0")
		if len(g.Components) > 1 {
			argv = append(argv, "--het-group="+strconv.Itoa(i))
		}
		argv = append(argv, "--cpus-per-task="+strconv.FormatInt(c.CPUs, 10))
		if gpus := c.Devices(); gpus > 0 {
			argv = append(argv, "--gpu-bind=per_task:"+strconv.FormatInt(gpus, 10))
		}
		argv = append(argv, "./podrun", "pod")
		argv = append(argv, podArgs...)
		argv = append(argv, ".")
	}
	return argv
}

// srunEnv is the environment for srun: the batch script's, less what names the
// first node's devices, which members without devices would inherit.
func srunEnv(env []string, restart int) []string {
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK", "SLURM_JOB_GPUS",
			"SLURM_EXPORT_ENV", RestartVariable:
			continue
		}
		out = append(out, kv)
	}
	return append(out, RestartVariable+"="+strconv.Itoa(restart))
}
