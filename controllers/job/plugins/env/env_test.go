package env

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

func TestEnv(t *testing.T) {
	t.Parallel()
	p, err := plugins.Set{Factory()}.New("env", nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "init"}},
		Containers:     []corev1.Container{{Name: "a", Env: []corev1.EnvVar{{Name: "MINE", Value: "1"}}}},
	}}
	p.MutatePod(nil, nil, 3, pod)
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		got := map[string]string{}
		for _, e := range c.Env {
			got[e.Name] = e.Value
		}
		if got["VC_TASK_INDEX"] != "3" || got["VK_TASK_INDEX"] != "3" || (c.Name == "a") != (got["MINE"] == "1") {
			t.Errorf("%s: %v", c.Name, got)
		}
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	if _, err := (plugins.Set{Factory()}).New("env", []string{"--x"}); err == nil || !strings.Contains(err.Error(), "takes no arguments") {
		t.Errorf("error %v", err)
	}
	if _, err := (plugins.Set{Factory()}).New("mpi", nil); err == nil || !strings.Contains(err.Error(), `known are ["env"]`) {
		t.Errorf("error %v", err)
	}
}
