package machine

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// member is one pod of the job with what the machine needs to know about it.
type member struct {
	pod     *corev1.Pod
	task    string
	index   int32
	version int32
	retry   int32 // during which it was made
	// partition of the task, 0 when the task has none.
	partition int32
	// wanted is false for a pod beyond its task's replicas or of no task.
	wanted bool
}

func (m *member) terminating() bool { return m.pod.DeletionTimestamp != nil }

// finished says that the pod's containers ended by themselves.
func (m *member) finished() bool {
	return m.pod.Status.Phase == corev1.PodSucceeded || m.pod.Status.Phase == corev1.PodFailed
}

// census sorts the pods by name and UID, so that every decision is the same
// whatever order they were listed in.
func census(job *batch.Job, pods []*corev1.Pod) []member {
	replicas, sizes := map[string]int32{}, map[string]int32{}
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		replicas[task.Name] = task.Replicas
		if pp := task.PartitionPolicy; pp != nil && pp.PartitionSize > 0 {
			sizes[task.Name] = pp.PartitionSize
		}
	}
	members := make([]member, 0, len(pods))
	for _, pod := range pods {
		m := member{pod: pod, version: versionOf(pod.Annotations), retry: retryOf(pod)}
		if task, index, ok := indexOf(pod); ok {
			m.task, m.index = task, index
			n, known := replicas[task]
			if size := sizes[task]; size > 0 {
				m.partition = index / size
			}
			m.wanted = known && index < n && pod.Name == PodName(job.Name, task, index)
		}
		members = append(members, m)
	}
	slices.SortFunc(members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.pod.Name, b.pod.Name), cmp.Compare(a.pod.UID, b.pod.UID))
	})
	return members
}

// counts are the pods by what they are. A pod that is being deleted, or that
// this pass deletes, is terminating and nothing else.
type counts struct {
	pending, running, succeeded, failed, terminating, unknown int32
	tasks                                                     map[string]batch.TaskState
	succeededOf                                               map[string]int32
}

func count(members []member, doomed map[*corev1.Pod]bool) counts {
	c := counts{tasks: map[string]batch.TaskState{}, succeededOf: map[string]int32{}}
	for i := range members {
		m := &members[i]
		if m.terminating() || doomed[m.pod] {
			c.terminating++
			continue
		}
		phase := m.pod.Status.Phase
		switch phase {
		case corev1.PodPending, "":
			phase = corev1.PodPending
			c.pending++
		case corev1.PodRunning:
			c.running++
		case corev1.PodSucceeded:
			c.succeeded++
			c.succeededOf[m.task]++
		case corev1.PodFailed:
			c.failed++
		default:
			phase = corev1.PodUnknown
			c.unknown++
		}
		state, ok := c.tasks[m.task]
		if !ok {
			state = batch.TaskState{Phase: map[corev1.PodPhase]int32{}}
			c.tasks[m.task] = state
		}
		state.Phase[phase]++
	}
	return c
}

func (c counts) writeTo(st *batch.JobStatus) {
	st.Pending, st.Running, st.Succeeded = c.pending, c.running, c.succeeded
	st.Failed, st.Terminating, st.Unknown = c.failed, c.terminating, c.unknown
	st.TaskStatusCount = c.tasks
	if len(c.tasks) == 0 {
		st.TaskStatusCount = nil
	}
}

// counted is the number of live pods of a task that a status was written with.
func counted(st *batch.JobStatus, task string) int32 {
	var n int32
	for _, k := range st.TaskStatusCount[task].Phase {
		n += k
	}
	return n
}

// Vanished says that the status counted live pods that are no longer among
// pods: they were deleted between two looks. Only a job in phase Pending or
// Running has such pods. A caller that lists from a cache should list once more
// from the API server before it believes this.
func Vanished(job *batch.Job, pods []*corev1.Pod) bool {
	job = Default(job)
	if !active(job.Status.State.Phase) {
		return false
	}
	members, past := census(job, pods), recall(&job.Status)
	for i := range job.Spec.Tasks {
		if vanishedOf(job, &job.Spec.Tasks[i], members, past) > 0 {
			return true
		}
	}
	return false
}

func vanishedOf(job *batch.Job, task *batch.TaskSpec, members []member, past memory) int32 {
	var present int32
	for i := range members {
		// What a restart deletes was not counted.
		if m := &members[i]; m.task == task.Name && m.version == job.Status.Version && !past.restarted(m) {
			present++
		}
	}
	return min(counted(&job.Status, task.Name), task.Replicas) - present
}

func active(phase batch.JobPhase) bool {
	return phase == "" || phase == batch.Pending || phase == batch.Running
}

// killing says that the job's pods are on their way out.
func killing(phase batch.JobPhase) bool {
	return phase == batch.Aborting || phase == batch.Terminating || phase == batch.Completing
}

// Finished says that the phase is one that the TTL counts from and that a job
// never leaves: Completed, Failed or Terminated.
func Finished(phase batch.JobPhase) bool {
	return phase == batch.Completed || phase == batch.Failed || phase == batch.Terminated
}
