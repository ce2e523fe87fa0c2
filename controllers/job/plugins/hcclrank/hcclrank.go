// Package hcclrank is the job plugin "hcclrank": it gives each pod its rank for
// Ascend's collective library, in the annotation hccl/rankIndex and in RANK.
package hcclrank

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "hcclrank"

const (
	annotation = "hccl/rankIndex"
	rankEnv    = "RANK"
)

type plugin struct{ master, worker string }

// Factory makes the plugin. Its arguments are --master and --worker, the names of
// tasks.
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.master, "master", "master", "")
		flags.StringVar(&p.worker, "worker", "worker", "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		return p, nil
	}}
}

// Validate takes any job: one of workers alone counts them from 0.
func (plugin) Validate(*batch.Job) error { return nil }

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

// MutatePod counts the master's pods first, then the workers. A RANK that the pod
// has already, from the template or another plugin, is the rank.
func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, index int32, pod *corev1.Pod) {
	if pod.Annotations[annotation] != "" {
		return
	}
	rank := ""
	for i := range pod.Spec.Containers {
		for _, e := range pod.Spec.Containers[i].Env {
			if e.Name == rankEnv && e.Value != "" {
				rank = e.Value
			}
		}
	}
	own := rank == ""
	if own {
		switch task.Name {
		case p.master:
		case p.worker:
			if master := address.Task(job, p.master); master != nil {
				index += master.Replicas
			}
		default:
			return
		}
		rank = strconv.Itoa(int(index))
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotation] = rank
	if own {
		address.AddEnv(pod, corev1.EnvVar{Name: rankEnv, Value: rank})
	}
}
