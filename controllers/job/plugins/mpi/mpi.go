// Package mpi is the job plugin "mpi": it tells the master of a job the hosts of
// the workers, in MPI_HOST. The workers run sshd; the plugins ssh and svc, which
// come with this one, give them keys and names.
package mpi

import (
	"errors"
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

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, _ int32, pod *corev1.Pod) {
	switch task.Name {
	case p.master:
		if worker := address.Task(job, p.worker); worker != nil {
			address.AddEnv(pod, corev1.EnvVar{Name: "MPI_HOST", Value: strings.Join(address.All(job, worker), ",")})
		}
	case p.worker:
	default:
		return
	}
	address.OpenPort(pod, "mpijob-port", p.port)
}
