// Package svc is the job plugin "svc": it lets the pods of a job find each other
// by name. It makes a headless Service, a ConfigMap with the host names of every
// task, mounted under /etc/volcano, a NetworkPolicy that admits the job's own
// pods only, and the variables VC_<TASK>_HOSTS and VC_<TASK>_NUM.
package svc

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/machine"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "svc"

// mountPath is where containers find the ConfigMap.
const mountPath = "/etc/volcano"

// Factory makes the plugin. Its arguments are --publish-not-ready-addresses,
// --disable-network-policy and --inject-hosts-env (true unless set to false).
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: newPlugin}
}

type plugin struct {
	publishNotReady      bool
	disableNetworkPolicy bool
	injectHosts          bool
}

func newPlugin(args []string) (plugins.Plugin, error) {
	p := plugin{}
	flags := plugins.Flags(Name)
	flags.BoolVar(&p.publishNotReady, "publish-not-ready-addresses", false, "")
	flags.BoolVar(&p.disableNetworkPolicy, "disable-network-policy", false, "")
	flags.BoolVar(&p.injectHosts, "inject-hosts-env", true, "")
	if err := plugins.Parse(flags, args); err != nil {
		return nil, err
	}
	return p, nil
}

// Validate checks the names that the plugin derives from the job.
func (plugin) Validate(job *batch.Job) error {
	for _, msg := range validation.IsDNS1035Label(job.Name) {
		return fmt.Errorf("the Service is named after the job, and %q is not a valid name for one: %s", job.Name, msg)
	}
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		if task.Replicas > 0 && task.Template.Spec.Hostname == "" {
			last := machine.PodName(job.Name, task.Name, task.Replicas-1)
			for _, msg := range validation.IsDNS1123Label(last) {
				return fmt.Errorf("the host name of a pod is the pod's name, and %q is not a valid one: %s", last, msg)
			}
		}
	}
	return nil
}

func configName(job *batch.Job) string { return job.Name + "-svc" }

func envKey(task string) string { return strings.ToUpper(strings.ReplaceAll(task, "-", "_")) }

func selector(job *batch.Job) map[string]string {
	return map[string]string{batch.JobNameKey: job.Name, batch.JobNamespaceKey: job.Namespace}
}

// Objects are the Service, the ConfigMap and, unless disabled, the NetworkPolicy.
func (p plugin) Objects(job *batch.Job) []plugins.Object {
	out := []plugins.Object{
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: job.Name},
			Spec: corev1.ServiceSpec{
				ClusterIP:                corev1.ClusterIPNone,
				Selector:                 selector(job),
				PublishNotReadyAddresses: p.publishNotReady,
				// A Service needs a port; nobody listens on this one, the Service is
				// there for the names.
				Ports: []corev1.ServicePort{{Name: "placeholder-volcano", Port: 1, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(1)}},
			},
		},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configName(job)}, Data: hosts(job)},
	}
	if !p.disableNetworkPolicy {
		out = append(out, &networking.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: job.Name},
			Spec: networking.NetworkPolicySpec{
				PodSelector: metav1.LabelSelector{MatchLabels: selector(job)},
				Ingress: []networking.NetworkPolicyIngressRule{{
					From: []networking.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: selector(job)}}},
				}},
				PolicyTypes: []networking.PolicyType{networking.PolicyTypeIngress},
			},
		})
	}
	return out
}

// hosts is the content of the ConfigMap: for every task <task>.host with one
// host name a line, VC_<TASK>_HOSTS with commas between them, and VC_<TASK>_NUM.
func hosts(job *batch.Job) map[string]string {
	data := map[string]string{}
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		names := address.All(job, task)
		key := envKey(task.Name)
		data[task.Name+".host"] = strings.Join(names, "\n")
		data["VC_"+key+"_HOSTS"] = strings.Join(names, ",")
		data["VC_"+key+"_NUM"] = strconv.Itoa(int(task.Replicas))
	}
	return data
}

// MutatePod gives the pod its host name, the files and the variables.
func (p plugin) MutatePod(job *batch.Job, _ *batch.TaskSpec, _ int32, pod *corev1.Pod) {
	if pod.Spec.Hostname == "" {
		pod.Spec.Hostname = pod.Name
	}
	if pod.Spec.Subdomain == "" {
		pod.Spec.Subdomain = job.Name
	}
	name := configName(job)
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}
	var env []corev1.EnvVar
	for i := range job.Spec.Tasks {
		key := envKey(job.Spec.Tasks[i].Name)
		for _, variable := range []string{"VC_" + key + "_HOSTS", "VC_" + key + "_NUM"} {
			if !p.injectHosts && strings.HasSuffix(variable, "_HOSTS") {
				continue
			}
			env = append(env, corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{
				ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: source.LocalObjectReference, Key: variable}}})
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{ConfigMap: source}})
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].Env = append(list[i].Env, env...)
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: mountPath})
		}
	}
}
