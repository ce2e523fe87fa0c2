// Package tensorflow is the job plugin "tensorflow": it tells the pods of a job
// about each other in TF_CONFIG, as tf.distribute reads it.
package tensorflow

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "tensorflow"

type plugin struct {
	tasks map[string]*string // the role, as TensorFlow spells it, to the task's name
	port  int
}

// Factory makes the plugin. Its arguments are --ps, --worker, --chief and
// --evaluator, the names of tasks, and --port (2222).
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{tasks: map[string]*string{}}
		flags := plugins.Flags(Name)
		for _, role := range roles() {
			p.tasks[role] = flags.String(role, role, "")
		}
		flags.IntVar(&p.port, "port", 2222, "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		return p, plugins.CheckPorts(map[string]int{"port": p.port})
	}}
}

func roles() []string { return []string{"ps", "worker", "chief", "evaluator"} }

// role is what a task is to TensorFlow, "" for nothing.
func (p plugin) role(task string) string {
	for _, role := range roles() {
		if *p.tasks[role] == task {
			return role
		}
	}
	return ""
}

// Validate asks for one task at least.
func (p plugin) Validate(job *batch.Job) error {
	for i := range job.Spec.Tasks {
		if p.role(job.Spec.Tasks[i].Name) != "" {
			return nil
		}
	}
	return errors.New("no task of the job is a ps, worker, chief or evaluator; name them with --ps, --worker, --chief and --evaluator")
}

func (plugin) Objects(*batch.Job) []plugins.Object { return nil }

// config is TF_CONFIG. The evaluator is no part of the cluster, see the guide of
// tf.estimator.RunConfig, but knows it.
type config struct {
	Cluster map[string][]string `json:"cluster"`
	Task    self                `json:"task"`
}

type self struct {
	Type  string `json:"type"`
	Index int32  `json:"index"`
}

func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, index int32, pod *corev1.Pod) {
	role := p.role(task.Name)
	if role == "" {
		return
	}
	c := config{Cluster: map[string][]string{}, Task: self{role, index}}
	for i := range job.Spec.Tasks {
		t := &job.Spec.Tasks[i]
		if r := p.role(t.Name); r != "" && t.Replicas > 0 {
			for _, name := range address.All(job, t) {
				c.Cluster[r] = append(c.Cluster[r], fmt.Sprintf("%s:%d", name, p.port))
			}
		}
	}
	text, _ := json.Marshal(c) // of strings and numbers: it never fails
	address.AddEnv(pod, corev1.EnvVar{Name: "TF_CONFIG", Value: string(text)})
	address.OpenPort(pod, "tfjob-port", p.port)
}
