// Package ray is the job plugin "ray": it starts a Ray cluster of a head and
// workers, and makes a Service <job>-head-svc for the head.
package ray

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "ray"

type plugin struct {
	head, headContainer     string
	worker, workerContainer string
	port, dashboard, client int
}

// Factory makes the plugin. Its arguments are --head and --worker, the names of
// tasks (head, worker), --headContainer and --workerContainer, the containers in
// which Ray starts (the same names), --port (6379), --dashboardPort (8265) and
// --clientPort (10001).
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.head, "head", "head", "")
		flags.StringVar(&p.headContainer, "headContainer", "head", "")
		flags.StringVar(&p.worker, "worker", "worker", "")
		flags.StringVar(&p.workerContainer, "workerContainer", "worker", "")
		flags.IntVar(&p.port, "port", 6379, "")
		flags.IntVar(&p.dashboard, "dashboardPort", 8265, "")
		flags.IntVar(&p.client, "clientPort", 10001, "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		return p, plugins.CheckPorts(map[string]int{"port": p.port, "dashboardPort": p.dashboard, "clientPort": p.client})
	}}
}

// Validate asks for the head and its container, and that of the workers, if any.
func (p plugin) Validate(job *batch.Job) error {
	if err := address.Require(job, map[string]string{"head": p.head}); err != nil {
		return err
	}
	for _, msg := range validation.IsDNS1035Label(serviceName(job)) {
		return fmt.Errorf("the Service of the head is named %q, which is not a valid name for one: %s", serviceName(job), msg)
	}
	for _, c := range []struct{ task, container, flag string }{{p.head, p.headContainer, "headContainer"}, {p.worker, p.workerContainer, "workerContainer"}} {
		if task := address.Task(job, c.task); task != nil && find(&task.Template.Spec, c.container) == nil {
			return fmt.Errorf("task %s has no container %q; name the right one with --%s", c.task, c.container, c.flag)
		}
	}
	return nil
}

func find(spec *corev1.PodSpec, name string) *corev1.Container {
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return &spec.Containers[i]
		}
	}
	return nil
}

func serviceName(job *batch.Job) string { return job.Name + "-head-svc" }

// Objects is the Service of the head.
func (p plugin) Objects(job *batch.Job) []plugins.Object {
	port := func(name string, number int) corev1.ServicePort {
		return corev1.ServicePort{Name: name, Port: int32(number), Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt(number)} //nolint:gosec // checked by plugins.CheckPorts
	}
	return []plugins.Object{&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(job)},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{batch.JobNameKey: job.Name, batch.JobNamespaceKey: job.Namespace, batch.TaskSpecKey: p.head},
			Ports:    []corev1.ServicePort{port("gcs", p.port), port("dashboard", p.dashboard), port("client-server", p.client)},
		},
	}}
}

// MutatePod gives the container of Ray its command; one that has a command of its
// own keeps it.
func (p plugin) MutatePod(job *batch.Job, task *batch.TaskSpec, _ int32, pod *corev1.Pod) {
	var c *corev1.Container
	var command []string
	switch task.Name {
	case p.head:
		c = find(&pod.Spec, p.headContainer)
		command = []string{"ray", "start", "--head", "--block", "--port=" + strconv.Itoa(p.port), "--dashboard-host=0.0.0.0",
			"--dashboard-port=" + strconv.Itoa(p.dashboard), "--ray-client-server-port=" + strconv.Itoa(p.client)}
	case p.worker:
		c = find(&pod.Spec, p.workerContainer)
		if head := address.Task(job, p.head); head != nil {
			command = []string{"ray", "start", "--block", fmt.Sprintf("--address=%s:%d", address.Of(job, head, 0), p.port)}
		}
	}
	if c == nil || command == nil {
		return
	}
	if len(c.Command) == 0 && len(c.Args) == 0 {
		c.Command = command
	}
	if task.Name == p.head {
		for name, port := range map[string]int{"gcs": p.port, "dashboard": p.dashboard, "client-server": p.client} {
			address.OpenPort(pod, name, port)
		}
	}
}
