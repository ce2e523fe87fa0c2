// Package mindspore is the job plugin "mindspore": it tells the processes of a
// MindSpore dynamic cluster, which needs no rank table and no MPI, about their
// scheduler: MS_ROLE, MS_SCHED_HOST, MS_SCHED_PORT, MS_WORKER_NUM, MS_SERVER_NUM
// and MS_NODE_ID, as MindSpore's guide to dynamic cluster start-up names them.
//
// MindSpore takes an address, no name, in MS_SCHED_HOST, and there is none yet when
// pods are made. On virtual nodes the pod runner puts the address in the name's
// place; elsewhere the command has to.
package mindspore

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "mindspore"

type plugin struct {
	scheduler, server, worker string
	port                      int
}

// Factory makes the plugin. Its arguments are --scheduler, --server and --worker,
// the names of tasks, and --port (8118), where the scheduler listens.
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.scheduler, "scheduler", "scheduler", "")
		flags.StringVar(&p.server, "server", "server", "")
		flags.StringVar(&p.worker, "worker", "worker", "")
		flags.IntVar(&p.port, "port", 8118, "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		return p, plugins.CheckPorts(map[string]int{"port": p.port})
	}}
}

// Validate asks for a scheduler and workers; parameter servers are optional.
func (p plugin) Validate(job *batch.Job) error {
	return address.Require(job, map[string]string{"scheduler": p.scheduler, "worker": p.worker})
}

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, index int32, pod *corev1.Pod) {
	role := map[string]string{p.scheduler: "MS_SCHED", p.server: "MS_PSERVER", p.worker: "MS_WORKER"}[task.Name]
	scheduler := address.Task(job, p.scheduler)
	if role == "" || scheduler == nil {
		return
	}
	count := func(name string) string {
		if t := address.Task(job, name); t != nil {
			return strconv.Itoa(int(t.Replicas))
		}
		return "0"
	}
	vars := []corev1.EnvVar{
		{Name: "MS_ROLE", Value: role},
		{Name: "MS_SCHED_HOST", Value: address.Of(job, scheduler, 0)},
		{Name: "MS_SCHED_PORT", Value: strconv.Itoa(p.port)},
		{Name: "MS_WORKER_NUM", Value: count(p.worker)},
	}
	if address.Task(job, p.server) != nil {
		vars = append(vars, corev1.EnvVar{Name: "MS_SERVER_NUM", Value: count(p.server)})
	}
	if task.Name != p.scheduler {
		vars = append(vars, corev1.EnvVar{Name: "MS_NODE_ID", Value: strconv.Itoa(int(index))})
	}
	address.AddEnv(pod, vars...)
	if task.Name == p.scheduler {
		address.OpenPort(pod, "ms-sched-port", p.port)
	}
}
