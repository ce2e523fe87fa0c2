package machine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// happening is something that a policy may react to.
type happening struct {
	event bus.Event
	task  string // empty for an event of the whole job
	codes []int32
	at    time.Time
	key   string // breaks ties: pod name and UID
	text  string
}

// verdict is a policy that applies now.
type verdict struct {
	action bus.Action
	event  bus.Event
	text   string
}

// judge looks for the first happening that a policy reacts to. Happenings are
// taken in the order in which they happened; the policies of the pod's task are
// looked at before those of the job. wait is how long until the first policy
// with a timeout takes effect, 0 if there is none.
func judge(job *batch.Job, members []member, podGroup *scheduling.PodGroup, now time.Time) (v *verdict, wait time.Duration) {
	for _, h := range happenings(job, members, podGroup, now) {
		p, where := match(job, h)
		if p == nil {
			continue
		}
		if p.Timeout != nil {
			if rest := h.at.Add(p.Timeout.Duration).Sub(now); rest > 0 {
				if wait == 0 || rest < wait {
					wait = rest
				}
				continue
			}
		}
		if v == nil {
			v = &verdict{action: p.Action, event: h.event, text: fmt.Sprintf("%s: %s says %s", h.text, where, p.Action)}
		}
	}
	return v, wait
}

func match(job *batch.Job, h happening) (policy *batch.LifecyclePolicy, where string) {
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		if h.task == "" || task.Name != h.task {
			continue
		}
		if j := matchIn(task.Policies, h); j >= 0 {
			return &task.Policies[j], fmt.Sprintf("spec.tasks[%d].policies[%d]", i, j)
		}
	}
	if j := matchIn(job.Spec.Policies, h); j >= 0 {
		return &job.Spec.Policies[j], fmt.Sprintf("spec.policies[%d]", j)
	}
	return nil, ""
}

func matchIn(policies []batch.LifecyclePolicy, h happening) int {
	return slices.IndexFunc(policies, func(p batch.LifecyclePolicy) bool {
		if p.ExitCode != nil {
			return slices.Contains(h.codes, *p.ExitCode)
		}
		events := policyEvents(&p)
		// That a pod waits is not an event of its own: only a policy that names
		// PodPending, and so a timeout, is about it.
		return slices.Contains(events, h.event) ||
			h.event != bus.PodPendingEvent && slices.Contains(events, bus.AnyEvent)
	})
}

// happenings reads the events out of the objects. Pods of an older version and
// pods that are not wanted any more tell nothing about the job.
func happenings(job *batch.Job, members []member, podGroup *scheduling.PodGroup, now time.Time) []happening {
	var out []happening
	for i := range members {
		m := &members[i]
		if m.wanted && m.version == job.Status.Version {
			out = append(out, ofPod(m)...)
		}
	}
	for i := range job.Spec.Tasks {
		out = append(out, ofTask(job, &job.Spec.Tasks[i], members, now)...)
	}
	if podGroup != nil && versionOf(podGroup.Annotations) == job.Status.Version && podGroup.Status.Phase == scheduling.PodGroupUnknown {
		out = append(out, happening{event: bus.JobUnknownEvent, at: now,
			text: "a part of the pods runs and the others cannot be scheduled"})
	}
	slices.SortStableFunc(out, func(a, b happening) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.key, b.key), cmp.Compare(a.event, b.event))
	})
	return out
}

func ofPod(m *member) []happening {
	pod := m.pod
	key := pod.Name + "/" + string(pod.UID)
	phase := pod.Status.Phase
	switch {
	case m.terminating() && phase != corev1.PodSucceeded:
		// A pod that had succeeded has done its work: deleting it evicts nothing.
		return []happening{{event: bus.PodEvictedEvent, task: m.task, key: key,
			at: deletedAt(pod), text: fmt.Sprintf("pod %s was deleted", pod.Name)}}
	case m.terminating():
		return nil
	case phase == corev1.PodFailed:
		codes, text := exitCodes(pod)
		return []happening{{event: bus.PodFailedEvent, task: m.task, key: key, codes: codes,
			at: endedAt(pod), text: text}}
	case phase == corev1.PodPending || phase == "":
		return []happening{{event: bus.PodPendingEvent, task: m.task, key: key,
			at: pod.CreationTimestamp.Time, text: fmt.Sprintf("pod %s is still pending", pod.Name)}}
	}
	return nil
}

func ofTask(job *batch.Job, task *batch.TaskSpec, members []member, now time.Time) []happening {
	var succeeded, restarts int32
	var last time.Time
	for i := range members {
		m := &members[i]
		if !m.wanted || m.task != task.Name || m.version != job.Status.Version || m.terminating() {
			continue
		}
		switch m.pod.Status.Phase {
		case corev1.PodSucceeded:
			succeeded++
			if at := endedAt(m.pod); at.After(last) {
				last = at
			}
		case corev1.PodRunning, corev1.PodPending:
			for _, s := range m.pod.Status.InitContainerStatuses {
				restarts += s.RestartCount
			}
			for _, s := range m.pod.Status.ContainerStatuses {
				restarts += s.RestartCount
			}
		}
	}
	var out []happening
	if task.Replicas > 0 && succeeded == task.Replicas {
		out = append(out, happening{event: bus.TaskCompletedEvent, task: task.Name, key: task.Name, at: last,
			text: fmt.Sprintf("task %s: all %d pods succeeded", task.Name, task.Replicas)})
	}
	// maxRetry -1 means that containers may restart for ever.
	if task.MaxRetry >= 0 && restarts > task.MaxRetry {
		out = append(out, happening{event: bus.TaskFailedEvent, task: task.Name, key: task.Name, at: now,
			text: fmt.Sprintf("task %s: containers restarted %d times, more than maxRetry %d", task.Name, restarts, task.MaxRetry)})
	}
	if n := vanishedOf(job, task, members); n > 0 {
		out = append(out, happening{event: bus.PodEvictedEvent, task: task.Name, key: task.Name, at: now,
			text: fmt.Sprintf("task %s: %d pods were deleted", task.Name, n)})
	}
	return out
}

// exitCodes lists the codes other than 0 of a pod's containers, and says in
// words how the pod failed.
func exitCodes(pod *corev1.Pod) (codes []int32, text string) {
	text = fmt.Sprintf("pod %s failed", pod.Name)
	if pod.Status.Reason != "" {
		text += " (" + pod.Status.Reason + ")"
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			t := list[i].State.Terminated
			if t == nil || t.ExitCode == 0 {
				continue
			}
			if len(codes) == 0 {
				text += fmt.Sprintf(": container %s exited with code %d", list[i].Name, t.ExitCode)
			}
			codes = append(codes, t.ExitCode)
		}
	}
	return codes, text
}

// endedAt is when the last container of a finished pod ended, or the best that
// is known about it. It depends on the pod alone, so that a policy's timeout
// counts from the same moment in every pass.
func endedAt(pod *corev1.Pod) time.Time {
	var at time.Time
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if t := list[i].State.Terminated; t != nil && t.FinishedAt.After(at) {
				at = t.FinishedAt.Time
			}
		}
	}
	if !at.IsZero() {
		return at
	}
	for i := range pod.Status.Conditions {
		if t := pod.Status.Conditions[i].LastTransitionTime; t.After(at) {
			at = t.Time
		}
	}
	if at.IsZero() {
		at = pod.CreationTimestamp.Time
	}
	return at
}

// deletedAt is when the deletion was asked for. The deletion timestamp itself
// lies a grace period later.
func deletedAt(pod *corev1.Pod) time.Time {
	at := pod.DeletionTimestamp.Time
	if g := pod.DeletionGracePeriodSeconds; g != nil {
		at = at.Add(-time.Duration(*g) * time.Second)
	}
	return at
}
