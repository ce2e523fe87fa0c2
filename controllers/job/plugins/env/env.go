// Package env is the job plugin "env": it tells every container the index of its
// pod within the task, in the variables VC_TASK_INDEX and VK_TASK_INDEX.
package env

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "env"

// The variables; the second is the older name that jobs still use.
const (
	taskIndex    = "VC_TASK_INDEX"
	oldTaskIndex = "VK_TASK_INDEX"
)

// Factory makes the plugin. It takes no arguments.
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		if len(args) > 0 {
			return nil, fmt.Errorf("plugin %s takes no arguments, got %q", Name, args)
		}
		return plugin{}, nil
	}}
}

type plugin struct{}

func (plugin) Validate(*batch.Job) error { return nil }

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

func (plugin) MutatePod(_ *batch.Job, _ *batch.TaskSpec, index int32, pod *corev1.Pod) {
	value := strconv.Itoa(int(index))
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].Env = append(list[i].Env,
				corev1.EnvVar{Name: oldTaskIndex, Value: value},
				corev1.EnvVar{Name: taskIndex, Value: value})
		}
	}
}
