package podstatus

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// set writes one of our conditions. The transition time changes with the status only.
func (w *writer) set(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	next := corev1.PodCondition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: w.pod.Generation, LastTransitionTime: *stamp(w.now),
	}
	for i := range w.s.Conditions {
		c := &w.s.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status == status {
			next.LastTransitionTime = c.LastTransitionTime
		}
		next.LastProbeTime = c.LastProbeTime
		*c = next
		return
	}
	w.s.Conditions = append(w.s.Conditions, next)
}

func (w *writer) batchJob(status corev1.ConditionStatus, reason, message string) {
	w.set(wellknown.PodBatchJob, status, reason, message)
}

// conditions writes the kubelet's conditions from the container statuses;
// sandbox says whether the runner of the pod is up.
func (w *writer) conditions(sandbox bool) {
	w.s.ObservedGeneration = w.pod.Generation
	if w.pod.Spec.NodeName != "" && !has(w.s, corev1.PodScheduled) {
		w.set(corev1.PodScheduled, corev1.ConditionTrue, "", "")
	}
	if sandbox {
		w.set(corev1.PodReadyToStartContainers, corev1.ConditionTrue, "", "")
	} else {
		w.set(corev1.PodReadyToStartContainers, corev1.ConditionFalse, "PodSandboxNotReady", "pod sandbox is not ready")
	}
	w.initialized()

	var unready []string
	for i := range w.s.InitContainerStatuses {
		c := w.s.InitContainerStatuses[i]
		if i < len(w.pod.Spec.InitContainers) && restartable(w.pod.Spec.InitContainers[i]) && !c.Ready {
			unready = append(unready, c.Name)
		}
	}
	for _, c := range w.s.ContainerStatuses {
		if !c.Ready || c.State.Running == nil {
			unready = append(unready, c.Name)
		}
	}
	switch {
	case w.s.Phase == corev1.PodSucceeded:
		w.bothReady("PodCompleted", "")
	case w.s.Phase == corev1.PodFailed:
		w.bothReady("PodFailed", "")
	case len(unready) > 0 || len(w.s.ContainerStatuses) == 0:
		w.bothReady("ContainersNotReady", clip(fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))))
	default:
		w.set(corev1.ContainersReady, corev1.ConditionTrue, "", "")
		if gate := w.openGate(); gate != "" {
			w.set(corev1.PodReady, corev1.ConditionFalse, "ReadinessGatesNotReady",
				clip(gate))
		} else {
			w.set(corev1.PodReady, corev1.ConditionTrue, "", "")
		}
	}
}

func (w *writer) bothReady(reason, message string) {
	w.set(corev1.ContainersReady, corev1.ConditionFalse, reason, message)
	w.set(corev1.PodReady, corev1.ConditionFalse, reason, message)
}

func (w *writer) initialized() {
	var open []string
	for i, spec := range w.pod.Spec.InitContainers {
		if i >= len(w.s.InitContainerStatuses) {
			open = append(open, spec.Name)
			continue
		}
		c := w.s.InitContainerStatuses[i]
		done := c.State.Terminated != nil && c.State.Terminated.ExitCode == 0
		if restartable(spec) {
			done = done || (c.Started != nil && *c.Started)
		}
		if !done {
			open = append(open, c.Name)
		}
	}
	switch {
	case w.s.Phase == corev1.PodSucceeded:
		w.set(corev1.PodInitialized, corev1.ConditionTrue, "PodCompleted", "")
	case len(open) > 0:
		w.set(corev1.PodInitialized, corev1.ConditionFalse, "ContainersNotInitialized",
			clip(fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(open, " "))))
	default:
		w.set(corev1.PodInitialized, corev1.ConditionTrue, "", "")
	}
}

// openGate says in a kubelet's words which readiness gates are not True; "" when
// all are.
func (w *writer) openGate() string {
	var open []string
	for _, g := range w.pod.Spec.ReadinessGates {
		found := false
		for _, c := range w.s.Conditions {
			if c.Type != g.ConditionType {
				continue
			}
			found = true
			if c.Status != corev1.ConditionTrue {
				open = append(open, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", c.Type, c.Status))
			}
		}
		if !found {
			open = append(open, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		}
	}
	return strings.Join(open, ", ")
}

func has(s *corev1.PodStatus, kind corev1.PodConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return true
		}
	}
	return false
}

func restartable(c corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// queueWords say in a user's terms what a pending job waits for. They change
// rarely, since every change is a write for every member.
func queueWords(job *backends.Job, behind string, now time.Time) (reason, message string) {
	id := string(job.ID)
	why := job.Reason
	if why == "" || why == "None" {
		why = "no reason given"
	}
	switch {
	case job.Never:
		message = fmt.Sprintf("batch job %s cannot start as it was submitted: %s", id, why)
		if h := hint(job.Reason); h != "" {
			message += "; " + h
		}
		return "Blocked", clip(message)
	case job.Held && job.Restarts == 0 && (job.Reason == "" || job.Reason == "JobHeldUser"):
		return "Submitted", fmt.Sprintf("batch job %s is submitted, not yet released", id)
	case job.Held:
		return "Held", clip(fmt.Sprintf("batch job %s is held: %s", id, why))
	}
	message = fmt.Sprintf("batch job %s waits in partition %s: %s", id, job.Partition, why)
	if behind != "" && job.Reason == "Dependency" {
		message += ", for " + behind
	}
	if at := coarse(job.Estimated, now); !at.IsZero() {
		message += ", estimated start " + at.Format("2006-01-02 15:04 MST")
	}
	return "Queued", clip(message)
}

func hint(reason string) string {
	switch reason {
	case "PartitionTimeLimit":
		return "ask for a shorter run time (annotation " + wellknown.Walltime + ") or another partition"
	case "PartitionNodeLimit":
		return "ask for fewer members or another partition"
	case "BadConstraints":
		return "no host of the partition has what is asked for"
	}
	return ""
}

// coarse rounds an estimate up so that it does not change with every look.
func coarse(at, now time.Time) time.Time {
	if at.IsZero() || !at.After(now) {
		return time.Time{}
	}
	step := 5 * time.Minute
	if at.Sub(now) > 2*time.Hour {
		step = 30 * time.Minute
	}
	at = at.UTC()
	if r := at.Truncate(step); !r.Equal(at) {
		return r.Add(step)
	}
	return at
}

func runsWords(job *backends.Job) string {
	words := "batch job " + string(job.ID) + " runs in partition " + job.Partition
	if hosts := firstHosts(job.Hosts); len(hosts) > 0 {
		words += " on " + strings.Join(hosts, ",")
		if more := len(job.Hosts) - len(hosts); more > 0 {
			words += fmt.Sprintf(" and %d more", more)
		}
	}
	return clip(words)
}

// firstHosts bounds how many hosts a message names.
func firstHosts(hosts []string) []string {
	return hosts[:min(len(hosts), 4)]
}
