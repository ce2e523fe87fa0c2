// Package address says under which name a pod of a job is reached by the others:
// job plugins that tell pods about each other agree on it. The names are those of
// the headless Service that the plugin svc makes; on a virtual node, where there
// is no cluster DNS, the pod runner makes the same names known on every host of
// the job once the hosts are.
package address

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
)

// Of is the name of the pod of a task with the index.
func Of(job *batch.Job, task *batch.TaskSpec, index int32) string {
	host, domain := task.Template.Spec.Hostname, task.Template.Spec.Subdomain
	if host == "" {
		host = machine.PodName(job.Name, task.Name, index)
	}
	if domain == "" {
		domain = job.Name
	}
	return host + "." + domain
}

// All are the names of the pods of a task: one, when all pods share a host name.
func All(job *batch.Job, task *batch.TaskSpec) []string {
	names := make([]string, 0, task.Replicas)
	for index := range task.Replicas {
		names = append(names, Of(job, task, index))
		if task.Template.Spec.Hostname != "" {
			break
		}
	}
	return names
}

// Task finds a task by name, nil when there is none.
func Task(job *batch.Job, name string) *batch.TaskSpec {
	for i := range job.Spec.Tasks {
		if job.Spec.Tasks[i].Name == name {
			return &job.Spec.Tasks[i]
		}
	}
	return nil
}

// Require says which of the tasks the job lacks; flag names are for the message.
func Require(job *batch.Job, tasks map[string]string) error {
	for flag, name := range tasks {
		if t := Task(job, name); t == nil {
			return fmt.Errorf("the job has no task %q; name the right one with --%s", name, flag)
		}
	}
	return nil
}

// AddEnv gives every container of a pod variables, in their order.
func AddEnv(pod *corev1.Pod, vars ...corev1.EnvVar) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].Env = append(list[i].Env, vars...)
		}
	}
}

// OpenPort names a port of every container, unless the container names it.
func OpenPort(pod *corev1.Pod, name string, port int) {
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		has := false
		for _, p := range c.Ports {
			has = has || int(p.ContainerPort) == port || p.Name == name
		}
		if !has {
			c.Ports = append(c.Ports, corev1.ContainerPort{Name: name, ContainerPort: int32(port)}) //nolint:gosec // checked by plugins.CheckPorts
		}
	}
}
