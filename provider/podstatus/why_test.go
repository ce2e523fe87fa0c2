package podstatus_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// TestWhyIsWaitedFor: jobs are listed before files are read, so a job that was cancelled is
// listed as running beside the files of its end. What the batch system says next is why.
func TestWhyIsWaitedFor(t *testing.T) {
	f := file(manifest.PhaseFailed, 143)
	f.Reason, f.Message = "Terminated", "the batch system ended the job"
	end := &manifest.End{ExitCode: 1}
	pod := newPod()
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
	look := func(state backends.State, after time.Duration) {
		pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(state), File: f, End: end, FileEndSeen: ended.Add(time.Second)}, ended.Add(after))
	}
	look(backends.StateRunning, time.Second)
	look(backends.StateCompleting, 6*time.Second)
	if pod.Status.Phase != corev1.PodRunning {
		t.Fatalf("before it is known why: %s", line(pod.Status))
	}
	known := pod.DeepCopy()
	look(backends.StateCancelled, 11*time.Second)
	if pod.Status.Reason != podstatus.ReasonCancelled {
		t.Errorf("when it is known: %s", line(pod.Status))
	}
	pod = known
	look(backends.StateRunning, 20*time.Second)
	if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Terminated" {
		t.Errorf("when it stays unknown: %s", line(pod.Status))
	}
}
