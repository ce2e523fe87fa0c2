package podstatus_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

func condition(s corev1.PodStatus, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

func cpus(n string) corev1.ResourceRequirements {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(n)}
	return corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
}

// A batch job cannot grow: a resize is answered, and taken back when the wish is.
func TestResize(t *testing.T) {
	pod := newPod()
	pod.Annotations = map[string]string{}
	pod.Spec.Containers[0].Resources = cpus("2")
	pod.Status = podstatus.Status(pod, podstatus.Evidence{WaitingReason: "Submitting"}, start)
	pod.Spec.Containers[0].Resources = cpus("3") // before the job is submitted it is taken
	pod.Generation++
	pod.Status = podstatus.Status(pod, podstatus.Evidence{WaitingReason: "Submitting"}, start)
	if c := condition(pod.Status, corev1.PodResizePending); c != nil {
		t.Errorf("before submission: %+v", c)
	}
	pod.Annotations[wellknown.BatchJobID] = "1"
	running := podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}
	pod.Status = podstatus.Status(pod, running, start)
	c := pod.Status.ContainerStatuses[0]
	if q := c.AllocatedResources[corev1.ResourceCPU]; q.String() != "3" || c.Resources == nil {
		t.Errorf("allocated %v", c.AllocatedResources)
	}
	pod.Spec.Containers[0].Resources = cpus("4")
	pod.Generation++
	pod.Status = podstatus.Status(pod, running, start)
	pending := condition(pod.Status, corev1.PodResizePending)
	if pending == nil || pending.Status != corev1.ConditionTrue || pending.Reason != corev1.PodReasonInfeasible ||
		!strings.Contains(pending.Message, "main") || pending.ObservedGeneration != pod.Generation || pod.Status.ObservedGeneration != pod.Generation {
		t.Errorf("condition %+v, observed %d", pending, pod.Status.ObservedGeneration)
	}
	if q := pod.Status.ContainerStatuses[0].AllocatedResources[corev1.ResourceCPU]; q.String() != "3" {
		t.Errorf("allocated %s", q.String())
	}
	pod.Status = podstatus.Status(pod, podstatus.Evidence{}, start) // a moment of silence changes nothing
	if condition(pod.Status, corev1.PodResizePending) == nil {
		t.Error("the answer went while nothing was known")
	}
	pod.Spec.Containers[0].Resources = cpus("3")
	pod.Status = podstatus.Status(pod, running, start)
	if c := condition(pod.Status, corev1.PodResizePending); c != nil {
		t.Errorf("after the wish was taken back: %+v", c)
	}
}

// A requeued pod is a disruption's target until it runs again.
func TestRequeueIsADisruption(t *testing.T) {
	pod := newPod()
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
	if c := condition(pod.Status, corev1.DisruptionTarget); c != nil {
		t.Fatalf("at first: %+v", c)
	}
	again := job(backends.StatePending)
	again.Restarts = 1
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: again}, start)
	if c := condition(pod.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue {
		t.Fatalf("while it waits again: %+v", c)
	}
	again.State = backends.StateRunning
	f := file(manifest.PhaseRunning, 0)
	f.Restart = 1
	pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: again, File: f}, start)
	if c := condition(pod.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionFalse {
		t.Errorf("once it runs again: %+v", c)
	}
	if c := pod.Status.ContainerStatuses[0]; c.RestartCount != 1 || c.LastTerminationState.Terminated == nil {
		t.Errorf("container %+v", c)
	}
}

// So it is where the second run is over before anybody looked, and where the job
// is cancelled while it waits again.
func TestRequeueIsOverWithThePod(t *testing.T) {
	ended := job(backends.StateFailed)
	ended.Restarts = 1
	short := file(manifest.PhaseFailed, 6)
	short.Restart = 1
	cancelled := job(backends.StateCancelled)
	cancelled.Restarts = 1
	for what, ev := range map[string]podstatus.Evidence{"a short second run": {Job: ended, File: short}, "cancelled": {Job: cancelled}} {
		pod := newPod()
		pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: file(manifest.PhaseRunning, 0)}, start)
		again := job(backends.StatePending)
		again.Restarts = 1
		pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: again}, start)
		if c := condition(pod.Status, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue {
			t.Fatalf("%s: while it waits again: %+v", what, c)
		}
		pod.Status = podstatus.Status(pod, ev, start)
		if c := condition(pod.Status, corev1.DisruptionTarget); pod.Status.Phase != corev1.PodFailed || c.Status != corev1.ConditionFalse {
			t.Errorf("%s: %s, %+v", what, pod.Status.Phase, c)
		}
	}
}

// What Slurm's memory limit killed is OOMKilled, also in the container's state.
func TestOutOfMemory(t *testing.T) {
	pod := newPod()
	f := file(manifest.PhaseFailed, 137)
	f.Containers[0].State.Terminated.Signal = 9
	oom := job(backends.StateOutOfMemory)
	oom.Ended = ended
	s := podstatus.Status(pod, podstatus.Evidence{Job: oom, File: f, End: &manifest.End{ExitCode: 1}}, late)
	if c := s.ContainerStatuses[0].State.Terminated; s.Reason != podstatus.ReasonOOM || c == nil || c.Reason != podstatus.ReasonOOM || c.ExitCode != 137 {
		t.Errorf("status %s", line(s))
	}
}

// Where Slurm kills a step for the memory that it used, members leave no last word and
// the job has failed; the launcher heard why.
func TestOutOfMemoryByTheLauncher(t *testing.T) {
	failed := job(backends.StateFailed)
	failed.Ended, failed.Reason, failed.ExitCode = ended, "NonZeroExitCode", 1
	heard := &manifest.End{ExitCode: 1, OutOfMemory: true}
	for name, tc := range map[string]struct {
		ev     podstatus.Evidence
		reason string
		code   int32
	}{
		"failed":          {podstatus.Evidence{Job: failed, End: heard}, podstatus.ReasonOOM, 137},
		"another run":     {podstatus.Evidence{Job: func() *backends.Job { j := *failed; j.Restarts = 1; return &j }(), End: heard}, podstatus.ReasonFailed, 1},
		"unheard":         {podstatus.Evidence{Job: failed, End: &manifest.End{ExitCode: 1}}, podstatus.ReasonFailed, 1},
		"forgotten":       {podstatus.Evidence{End: heard}, podstatus.ReasonOOM, 137},
		"had its own end": {podstatus.Evidence{Job: failed, End: heard, File: file(manifest.PhaseFailed, 3)}, "", 3},
	} {
		pod := newPod()
		if tc.ev.File == nil {
			tc.ev.File = file(manifest.PhaseRunning, 0)
		}
		s := podstatus.Status(pod, tc.ev, late)
		c := s.ContainerStatuses[0].State.Terminated
		if s.Phase != corev1.PodFailed || s.Reason != tc.reason || c == nil || c.ExitCode != tc.code || (c.Reason == podstatus.ReasonOOM) != (tc.reason == podstatus.ReasonOOM) {
			t.Errorf("%s: %s", name, line(s))
		}
	}
}

// A container that its own rules restart leaves its terminated state, which the
// API server allows; another stays.
func TestContainerRestartPolicy(t *testing.T) {
	for name, tc := range map[string]struct {
		pod    corev1.RestartPolicy
		policy *corev1.ContainerRestartPolicy
		rules  []corev1.ContainerRestartRule
		moves  bool
	}{
		"pod never":                      {pod: corev1.RestartPolicyNever},
		"pod never, container always":    {pod: corev1.RestartPolicyNever, policy: ptr(corev1.ContainerRestartPolicyAlways), moves: true},
		"pod always, container never":    {pod: corev1.RestartPolicyAlways, policy: ptr(corev1.ContainerRestartPolicyNever)},
		"pod never, a rule for its code": {pod: corev1.RestartPolicyNever, policy: ptr(corev1.ContainerRestartPolicyNever), rules: rules(3), moves: true},
		"pod never, a rule for another":  {pod: corev1.RestartPolicyNever, policy: ptr(corev1.ContainerRestartPolicyNever), rules: rules(4)},
	} {
		t.Run(name, func(t *testing.T) {
			pod := newPod()
			pod.Spec.RestartPolicy = tc.pod
			pod.Spec.Containers[0].RestartPolicy, pod.Spec.Containers[0].RestartPolicyRules = tc.policy, tc.rules
			dead := file(manifest.PhaseRunning, 0)
			dead.Containers[0].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}
			pod.Status = podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: dead}, start)
			waits := file(manifest.PhaseRunning, 0)
			waits.Containers[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			s := podstatus.Status(pod, podstatus.Evidence{Job: job(backends.StateRunning), File: waits}, start)
			if moved := s.ContainerStatuses[0].State.Waiting != nil; moved != tc.moves {
				t.Errorf("moved %v: %s", moved, line(s))
			}
		})
	}
}

func rules(code int32) []corev1.ContainerRestartRule {
	return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{code}}}}
}

func ptr[T any](v T) *T { return &v }
