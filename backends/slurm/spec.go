package slurm

import (
	"fmt"
	"strconv"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// switches writes "count[@seconds]" in Slurm's form of a time: a bare number would
// be minutes.
func switches(p slurmjob.Properties) string {
	switch {
	case p.Switches == 0:
		return ""
	case p.SwitchSeconds == 0:
		return strconv.Itoa(p.Switches)
	}
	return fmt.Sprintf("%d@%02d:%02d:%02d", p.Switches, p.SwitchSeconds/3600, p.SwitchSeconds/60%60, p.SwitchSeconds%60)
}

// sbatchArgs gives the arguments of sbatch; the components of a heterogeneous
// job are separated by ":" and each repeats what holds for all.
func sbatchArgs(s backends.JobSpec) []string {
	args := []string{"sbatch", "--parsable"}
	for i, p := range slurmjob.Describe(s) {
		if i > 0 {
			args = append(args, ":")
		}
		args = append(args,
			"--hold",
			"--job-name="+p.Name,
			"--comment="+p.Comment,
			"--dependency="+p.Dependency,
			"--kill-on-invalid-dep=yes",
			// A requeued job keeps its id; the launcher tells its runs apart.
			"--requeue",
			"--open-mode=append",
			// The environment of sbatch is clean, and NONE would start a login
			// shell on the compute host.
			"--export=ALL",
			"--chdir="+p.WorkDir,
			"--input=none",
			"--output="+p.Output,
		)
		for _, v := range [][2]string{
			{"--partition=", p.Partition}, {"--account=", p.Account}, {"--qos=", p.QOS},
			{"--constraint=", p.Constraint}, {"--reservation=", p.Reservation},
			{"--exclude=", p.Exclude}, {"--licenses=", p.Licenses}, {"--switches=", switches(p)},
		} {
			if v[1] != "" {
				args = append(args, v[0]+v[1])
			}
		}
		if p.Minutes > 0 {
			args = append(args, "--time="+strconv.FormatInt(p.Minutes, 10))
		}
		if p.WarnSeconds > 0 {
			args = append(args, fmt.Sprintf("--signal=B:%s@%d", slurmjob.WarnSignal, p.WarnSeconds))
		}
		args = append(args, "--ntasks="+strconv.Itoa(p.Tasks), "--cpus-per-task="+strconv.FormatInt(p.CPUs, 10))
		if p.MemoryPerCPUMiB > 0 {
			args = append(args, fmt.Sprintf("--mem-per-cpu=%dM", p.MemoryPerCPUMiB))
		}
		if p.GPUs != "" {
			// Not --gres, which counts by host: three tasks of two GPUs that share a
			// host would get two GPUs in all.
			args = append(args, "--gpus-per-task="+p.GPUs)
		}
		if p.Shards > 0 {
			// Of the host that the one task gets.
			args = append(args, "--gres=shard:"+strconv.FormatInt(p.Shards, 10))
		}
	}
	return args
}
