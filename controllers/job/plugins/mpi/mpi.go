// Package mpi is the job plugin "mpi": it tells the master of a job the hosts of
// the workers, in MPI_HOST. The workers run sshd; the plugins ssh and svc, which
// come with this one, give them keys and names.
//
// In a job of a batch system mpirun asks that system for the hosts, and starts
// processes by it: beside the pods. The master's variables tell it to use the
// workers' sshd there, too, as it does elsewhere.
package mpi

import (
	"errors"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "mpi"

type plugin struct {
	master, worker string
	port           int
}

// Factory makes the plugin. Its arguments are --master and --worker, the names of
// tasks, and --port (22), where sshd listens.
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.master, "master", "master", "")
		flags.StringVar(&p.worker, "worker", "worker", "")
		flags.IntVar(&p.port, "port", 22, "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		if p.master == p.worker {
			return nil, errors.New("--master and --worker must be different tasks")
		}
		return p, plugins.CheckPorts(map[string]int{"port": p.port})
	}}
}

// Validate asks for a master and workers.
func (p plugin) Validate(job *batch.Job) error {
	return address.Require(job, map[string]string{"master": p.master, "worker": p.worker})
}

// starters are the variables by which mpirun takes hosts from its command line
// alone and reaches them by ssh: of Open MPI up to 4, of Open MPI since 5 (PRRTE),
// and of MPICH, MVAPICH and Intel MPI (Hydra).
func starters() []corev1.EnvVar {
	return []corev1.EnvVar{
		{Name: "OMPI_MCA_plm", Value: "rsh"}, {Name: "OMPI_MCA_ras", Value: "^slurm,tm,lsf,gridengine"},
		{Name: "PRTE_MCA_plm", Value: "ssh"}, {Name: "PRTE_MCA_ras", Value: "^slurm,pbs,lsf,gridengine"},
		{Name: "HYDRA_BOOTSTRAP", Value: "ssh"}, {Name: "HYDRA_RMK", Value: "user"}, {Name: "I_MPI_HYDRA_BOOTSTRAP", Value: "ssh"},
	}
}

// addUnset gives every container of a pod those variables that it has not.
func addUnset(pod *corev1.Pod, vars []corev1.EnvVar) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, v := range vars {
				if !slices.ContainsFunc(list[i].Env, func(e corev1.EnvVar) bool { return e.Name == v.Name }) {
					list[i].Env = append(list[i].Env, v)
				}
			}
		}
	}
}

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, _ int32, pod *corev1.Pod) {
	switch task.Name {
	case p.master:
		if worker := address.Task(job, p.worker); worker != nil {
			address.AddEnv(pod, corev1.EnvVar{Name: "MPI_HOST", Value: strings.Join(address.All(job, worker), ",")})
		}
		addUnset(pod, starters())
	case p.worker:
	default:
		return
	}
	address.OpenPort(pod, "mpijob-port", p.port)
}
