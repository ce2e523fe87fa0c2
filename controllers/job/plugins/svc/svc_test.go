package svc

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

func newJob(name string) *batch.Job {
	return &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "ps", Replicas: 1}, {Name: "big-worker", Replicas: 2}}},
	}
}

func build(t *testing.T, args ...string) plugins.Plugin {
	t.Helper()
	p, err := plugins.Set{Factory()}.New("svc", args)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestObjects(t *testing.T) {
	t.Parallel()
	objects := build(t, "--publish-not-ready-addresses").Objects(newJob("train"))
	service, config, policy := objects[0].(*corev1.Service), objects[1].(*corev1.ConfigMap), objects[2].(*networking.NetworkPolicy)
	if service.Name != "train" || service.Spec.ClusterIP != "None" || !service.Spec.PublishNotReadyAddresses || service.Spec.Selector["volcano.sh/job-name"] != "train" {
		t.Errorf("service %+v", service)
	}
	for key, want := range map[string]string{
		"ps.host": "train-ps-0.train", "big-worker.host": "train-big-worker-0.train\ntrain-big-worker-1.train",
		"VC_PS_HOSTS": "train-ps-0.train", "VC_PS_NUM": "1",
		"VC_BIG_WORKER_HOSTS": "train-big-worker-0.train,train-big-worker-1.train", "VC_BIG_WORKER_NUM": "2",
	} {
		if config.Data[key] != want {
			t.Errorf("%s is %q, want %q", key, config.Data[key], want)
		}
	}
	if config.Name != "train-svc" || len(config.Data) != 6 {
		t.Errorf("config map %s with %d keys", config.Name, len(config.Data))
	}
	if policy.Name != "train" || policy.Spec.PodSelector.MatchLabels["volcano.sh/job-namespace"] != "ns" {
		t.Errorf("policy %+v", policy)
	}
	if n := len(build(t, "--disable-network-policy").Objects(newJob("train"))); n != 2 {
		t.Errorf("%d objects without a network policy", n)
	}
}

func TestMutatePod(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "train-ps-0"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "main"}}}}
	build(t).MutatePod(newJob("train"), nil, 0, pod)
	if pod.Spec.Hostname != "train-ps-0" || pod.Spec.Subdomain != "train" || pod.Spec.Volumes[0].ConfigMap.Name != "train-svc" {
		t.Errorf("spec %+v", pod.Spec)
	}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if len(c.Env) != 4 || c.Env[0].Name != "VC_PS_HOSTS" || c.Env[0].ValueFrom.ConfigMapKeyRef.Name != "train-svc" || c.VolumeMounts[0].MountPath != "/etc/volcano" {
			t.Errorf("container %+v", c)
		}
	}
	bare := &corev1.Pod{Spec: corev1.PodSpec{Hostname: "own", Subdomain: "sub", Containers: []corev1.Container{{Name: "main"}}}}
	build(t, "--inject-hosts-env=false").MutatePod(newJob("train"), nil, 0, bare)
	if bare.Spec.Hostname != "own" || bare.Spec.Subdomain != "sub" || len(bare.Spec.Containers[0].Env) != 2 {
		t.Errorf("spec %+v", bare.Spec)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--nope"}, {"extra"}, {"--publish-not-ready-addresses=maybe"}, {"-help"}} {
		if _, err := (plugins.Set{Factory()}).New("svc", args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	for want, name := range map[string]string{"Service": "1.2", "host name": strings.Repeat("x", 60)} {
		if err := build(t).Validate(newJob(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
	if err := build(t).Validate(newJob("train")); err != nil {
		t.Error(err)
	}
}
