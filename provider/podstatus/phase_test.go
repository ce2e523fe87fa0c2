package podstatus_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// TestPhase: what a kubelet's getPhase says of containers under way, row by row.
// The runner's own phase is Running from the end of the init containers on, so it
// alone does not make a pod run.
func TestPhase(t *testing.T) {
	since := metav1.NewTime(start)
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: since}}
	over := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", StartedAt: since, FinishedAt: since}}
	waits := func(why string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: why}}
	}
	main := func(s corev1.ContainerState) manifest.Container { return manifest.Container{Name: "main", State: s} }
	side := func(s corev1.ContainerState) manifest.Container { return manifest.Container{Name: "side", State: s} }
	again := main(waits("CrashLoopBackOff"))
	again.LastState, again.RestartCount = over, 1
	const pending, running = corev1.PodPending, corev1.PodRunning
	tests := map[string]struct {
		runner     manifest.Phase
		containers []manifest.Container
		before     corev1.PodPhase
		want       corev1.PodPhase
	}{
		"init containers":                   {manifest.PhaseStarting, []manifest.Container{main(waits("PodInitializing"))}, pending, pending},
		"the only one waits for its image":  {manifest.PhaseRunning, []manifest.Container{main(waits("ContainerCreating"))}, pending, pending},
		"its image is not there":            {manifest.PhaseRunning, []manifest.Container{main(waits("ImagePullBackOff"))}, pending, pending},
		"it cannot be made":                 {manifest.PhaseRunning, []manifest.Container{main(waits("CreateContainerConfigError"))}, pending, pending},
		"it runs":                           {manifest.PhaseRunning, []manifest.Container{main(runs)}, pending, running},
		"one of two waits for its image":    {manifest.PhaseRunning, []manifest.Container{main(runs), side(waits("ErrImagePull"))}, pending, pending},
		"one ended while another waits":     {manifest.PhaseRunning, []manifest.Container{main(over), side(waits("ErrImagePull"))}, pending, pending},
		"both run":                          {manifest.PhaseRunning, []manifest.Container{main(runs), side(runs)}, pending, running},
		"one has ended":                     {manifest.PhaseRunning, []manifest.Container{main(over), side(runs)}, pending, running},
		"it waits for its next start":       {manifest.PhaseRunning, []manifest.Container{again}, running, running},
		"nothing is said of one":            {manifest.PhaseRunning, []manifest.Container{main(runs), {Name: "other"}}, pending, pending},
		"a pod that ran is not pending now": {manifest.PhaseRunning, []manifest.Container{main(waits("ContainerCreating"))}, running, running},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := newPod()
			pod.Status.Phase = tc.before
			if len(tc.containers) > 1 {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: "side", Image: "img"})
			}
			f := file(tc.runner, 0)
			f.Containers = tc.containers
			s := podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: f}, start)
			if s.Phase != tc.want {
				t.Errorf("phase %s, want %s: %s", s.Phase, tc.want, line(s))
			}
			if f.Containers[0].State.Waiting != nil && s.ContainerStatuses[0].State.Waiting.Reason != f.Containers[0].State.Waiting.Reason {
				t.Errorf("the container's reason is lost: %s", line(s))
			}
		})
	}
}
