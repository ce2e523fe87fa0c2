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
	task  string  // empty for an event of the whole job
	pod   *member // nil for an event of a task or of the whole job
	// unseen says that no object shows when it began: at is now, or what the
	// memory says.
	unseen bool
	codes  []int32
	at     time.Time
	key    string // breaks ties: pod name and UID
	text   string
}

// verdict is a policy that applies now.
type verdict struct {
	action bus.Action
	event  bus.Event
	text   string
	// task and number say which part a partial restart is about.
	task   string
	number int32
}

// judge looks for the first happening that a policy reacts to. Happenings are
// taken in the order in which they happened; the policies of the pod's task are
// looked at before those of the job. since is what to remember the beginnings of,
// and wait how long until the first policy with a timeout takes effect, 0 if there
// is none.
func judge(job *batch.Job, hs []happening, now time.Time) (v *verdict, since map[string]time.Time, wait time.Duration) {
	since = map[string]time.Time{}
	for _, h := range hs {
		p, where := match(job, h)
		if p == nil {
			continue
		}
		if p.Timeout != nil {
			if rest := h.at.Add(p.Timeout.Duration).Sub(now); rest > 0 {
				if key := h.since(); key != "" {
					if at, ok := since[key]; !ok || h.at.Before(at) {
						since[key] = h.at
					}
				}
				if wait == 0 || rest < wait {
					wait = rest
				}
				continue
			}
		}
		if v == nil {
			v = &verdict{event: h.event, text: fmt.Sprintf("%s: %s says %s", h.text, where, p.Action)}
			v.aim(job, p.Action, h)
		}
	}
	return v, since, wait
}

// aim sets the action and its part of the job. A part that the happening does not
// name is widened to the next larger one: what a task went through restarts the
// task, what the job went through restarts the job.
func (v *verdict) aim(job *batch.Job, action bus.Action, h happening) {
	if action == bus.RestartPartitionAction && h.pod != nil && !partitioned(job, h.task) {
		action = bus.RestartTaskAction
	}
	switch action {
	case bus.RestartPodAction, bus.RestartPartitionAction:
		if h.pod == nil {
			v.aim(job, bus.RestartTaskAction, h)
			return
		}
		v.task, v.number = h.task, h.pod.index
		if action == bus.RestartPartitionAction {
			v.number = h.pod.partition
		}
	case bus.RestartTaskAction:
		if h.task == "" {
			action = bus.RestartJobAction
		}
		v.task = h.task
	}
	v.action = action
}

func partitioned(job *batch.Job, task string) bool {
	return slices.ContainsFunc(job.Spec.Tasks, func(t batch.TaskSpec) bool { return t.Name == task && t.PartitionPolicy != nil })
}

// since is the key under which the beginning is remembered, "" when the objects
// show it as long as it lasts.
func (h happening) since() string {
	if !h.unseen && h.event != bus.PodEvictedEvent {
		return ""
	}
	return string(h.event) + "-" + h.task
}

// namesEvent says that a policy of the job is about the event by name.
func namesEvent(job *batch.Job, event bus.Event) bool {
	in := func(policies []batch.LifecyclePolicy) bool {
		return slices.ContainsFunc(policies, func(p batch.LifecyclePolicy) bool { return slices.Contains(policyEvents(&p), event) })
	}
	return in(job.Spec.Policies) || slices.ContainsFunc(job.Spec.Tasks, func(t batch.TaskSpec) bool { return in(t.Policies) })
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
		if p.Action == bus.ResumeJobAction {
			return false // a job that events are looked at in has nothing to resume
		}
		if p.ExitCode != nil {
			return slices.Contains(h.codes, *p.ExitCode)
		}
		events := policyEvents(&p)
		// That a pod waits is not an event of its own: only a policy that names
		// PodPending, and so a timeout, is about it. Nor is that a user edits the
		// job: a job that restarts on any trouble is not to restart when scaled.
		return slices.Contains(events, h.event) ||
			h.event != bus.PodPendingEvent && h.event != bus.JobUpdatedEvent && slices.Contains(events, bus.AnyEvent)
	})
}

// happenings reads the events out of the objects. Pods of an older version, pods
// that a restart has done with and pods that are not wanted any more tell nothing
// about the job.
func happenings(job *batch.Job, members []member, past memory, podGroup *scheduling.PodGroup, now time.Time) []happening {
	var out []happening
	for i := range members {
		m := &members[i]
		if m.wanted && m.version == job.Status.Version && !past.restarted(m) {
			out = append(out, ofPod(m)...)
		}
	}
	for i := range job.Spec.Tasks {
		out = append(out, ofTask(job, &job.Spec.Tasks[i], members, past, now)...)
	}
	if podGroup != nil && versionOf(podGroup.Annotations) == job.Status.Version && podGroup.Status.Phase == scheduling.PodGroupUnknown {
		out = append(out, happening{event: bus.JobUnknownEvent, at: now, unseen: true,
			text: "a part of the pods runs and the others cannot be scheduled"})
	}
	if past.generation != 0 && past.generation != job.Generation {
		out = append(out, happening{event: bus.JobUpdatedEvent, at: now, text: "the job was updated"})
	}
	for i := range out {
		if h := &out[i]; h.unseen {
			if at, ok := past.since[h.since()]; ok {
				h.at = at
			}
		}
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
		return []happening{{event: bus.PodEvictedEvent, task: m.task, pod: m, key: key,
			at: deletedAt(pod), text: fmt.Sprintf("pod %s was deleted", pod.Name)}}
	case m.terminating():
		return nil
	case phase == corev1.PodFailed:
		codes, text := exitCodes(pod)
		return []happening{{event: bus.PodFailedEvent, task: m.task, pod: m, key: key, codes: codes,
			at: endedAt(pod), text: text}}
	case phase == corev1.PodPending || phase == "":
		return []happening{{event: bus.PodPendingEvent, task: m.task, pod: m, key: key,
			at: pod.CreationTimestamp.Time, text: fmt.Sprintf("pod %s is still pending", pod.Name)}}
	}
	return nil
}

func ofTask(job *batch.Job, task *batch.TaskSpec, members []member, past memory, now time.Time) []happening {
	var succeeded, running, failed, restarts int32
	var last time.Time
	for i := range members {
		m := &members[i]
		if !m.wanted || m.task != task.Name || m.version != job.Status.Version || m.terminating() || past.restarted(m) {
			continue
		}
		switch m.pod.Status.Phase {
		case corev1.PodRunning:
			running++
		case corev1.PodFailed:
			failed++
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
		out = append(out, happening{event: bus.TaskFailedEvent, task: task.Name, key: task.Name, at: now, unseen: true,
			text: fmt.Sprintf("task %s: containers restarted %d times, more than maxRetry %d", task.Name, restarts, task.MaxRetry)})
	}
	n := vanishedOf(job, task, members, past)
	gone := happening{event: bus.PodEvictedEvent, task: task.Name, key: task.Name, at: now, unseen: true,
		text: fmt.Sprintf("task %s: %d pods were deleted", task.Name, n)}
	switch _, waits := past.since[gone.since()]; {
	case n > 0:
		out = append(out, gone)
	case waits && running+succeeded+failed < task.Replicas:
		// A policy waits for it: until the successors run, it goes on.
		gone.text = fmt.Sprintf("task %s: pods that were deleted do not run again", task.Name)
		out = append(out, gone)
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
