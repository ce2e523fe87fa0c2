package podstatus_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// Added containers have a status from the start, which only goes forward.
func TestEphemeralStatus(t *testing.T) {
	pod := newPod()
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}}}
	f := file(manifest.PhaseRunning, 0)
	look := func() corev1.ContainerStatus {
		t.Helper()
		pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: f}, start)
		if len(pod.Status.EphemeralContainerStatuses) != 1 {
			t.Fatalf("statuses %+v", pod.Status.EphemeralContainerStatuses)
		}
		return pod.Status.EphemeralContainerStatuses[0]
	}
	if st := look(); st.Name != "debug" || st.Image != "busybox" || st.State.Waiting == nil {
		t.Errorf("at first %+v", st)
	}
	f.Ephemeral = []manifest.Container{{Name: "debug", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}, {Name: "forged"}}
	if st := look(); st.State.Running == nil {
		t.Errorf("then %+v", st)
	}
	f.Ephemeral[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 7}}
	if st := look(); st.State.Terminated == nil || st.State.Terminated.ExitCode != 7 {
		t.Errorf("at last %+v", st)
	}
	f.Ephemeral[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	if st := look(); st.State.Terminated == nil {
		t.Errorf("it lives again: %+v", st)
	}
}
