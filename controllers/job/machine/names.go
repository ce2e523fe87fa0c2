package machine

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// PodName is the name of the pod of a task: <job>-<task>-<index>.
func PodName(job, task string, index int32) string {
	return fmt.Sprintf("%s-%s-%d", job, task, index)
}

// PodGroupName is the name of the PodGroup of a job: <job>-<jobUID>.
func PodGroupName(job *batch.Job) string {
	return fmt.Sprintf("%s-%s", job.Name, job.UID)
}

// claimName is the name of the claim that spec.volumes[index] stands for. A
// claim without a name of its own is named after the job's UID, so that a job
// of the same name never finds the data of an older one.
func claimName(job *batch.Job, index int) string {
	if name := job.Spec.Volumes[index].VolumeClaimName; name != "" {
		return name
	}
	uid := string(job.UID)
	if len(uid) > 8 {
		uid = uid[:8]
	}
	return fmt.Sprintf("%s-pvc-%d-%s", job.Name, index, uid)
}

// versionOf reads the job version from the annotations of a pod or PodGroup. An
// object without a readable one counts as version 0, the oldest.
func versionOf(annotations map[string]string) int32 {
	v, err := strconv.ParseInt(annotations[batch.JobVersion], 10, 32)
	if err != nil || v < 0 {
		return 0
	}
	return int32(v)
}

// indexOf reads the task and the index of a pod; ok is false when the pod does
// not carry them.
func indexOf(pod *corev1.Pod) (task string, index int32, ok bool) {
	task = pod.Annotations[batch.TaskSpecKey]
	i, err := strconv.ParseInt(pod.Annotations[batch.TaskIndex], 10, 32)
	if task == "" || err != nil || i < 0 {
		return "", 0, false
	}
	return task, int32(i), true
}
