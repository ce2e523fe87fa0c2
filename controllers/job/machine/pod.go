package machine

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// carried are the keys that go from a job to its pods.
func carried() []string {
	return []string{scheduling.PodPreemptable, scheduling.CooldownTime, scheduling.RevocableZone,
		scheduling.JDBMinAvailable, scheduling.JDBMaxUnavailable}
}

// newPod builds one pod of a job that Default has completed, without what the
// job's plugins add. The template's own labels and annotations are kept.
func newPod(job *batch.Job, task *batch.TaskSpec, index int32) *corev1.Pod {
	template := task.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       job.Namespace,
			Name:            PodName(job.Name, task.Name, index),
			Labels:          copyOf(template.Labels),
			Annotations:     copyOf(template.Annotations),
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{OwnerOf(job)},
		},
		Spec: template.Spec,
	}
	number := strconv.Itoa(int(index))
	for key, value := range map[string]string{
		wellknown.PodGroupName: PodGroupName(job),
		batch.TaskIndex:        number,
		batch.TaskSpecKey:      task.Name,
		batch.JobNameKey:       job.Name,
		batch.QueueNameKey:     job.Spec.Queue,
		batch.JobVersion:       strconv.Itoa(int(job.Status.Version)),
		batch.JobRetryCountKey: strconv.Itoa(int(job.Status.RetryCount)),
		// Pods of one task are alike: a scheduler may decide for one of them
		// and reuse the answer for the others.
		batch.PodTemplateKey: fmt.Sprintf("%s-%s", job.UID, task.Name),
	} {
		pod.Annotations[key] = value
	}
	for key, value := range map[string]string{
		batch.TaskIndex:       number,
		batch.TaskSpecKey:     task.Name,
		batch.JobNameKey:      job.Name,
		batch.JobNamespaceKey: job.Namespace,
		batch.QueueNameKey:    job.Spec.Queue,
	} {
		pod.Labels[key] = value
	}
	if pp := task.PartitionPolicy; pp != nil && pp.PartitionSize > 0 {
		partition := strconv.Itoa(int(index / pp.PartitionSize))
		pod.Annotations[batch.TaskPartitionID] = partition
		pod.Labels[batch.TaskPartitionID] = partition
	}
	if task.TopologyPolicy != "" {
		pod.Annotations[scheduling.NumaPolicyKey] = string(task.TopologyPolicy)
	}
	if v, ok := job.Annotations[batch.JobForwardingKey]; ok {
		pod.Annotations[batch.JobForwardingKey], pod.Labels[batch.JobForwardingKey] = v, v
	}
	for _, key := range carried() {
		if v, ok := job.Annotations[key]; ok {
			pod.Annotations[key] = v
		}
		if v, ok := job.Labels[key]; ok {
			pod.Labels[key] = v
		}
	}
	for _, key := range []string{wellknown.QueueEarly, wellknown.After} {
		if v, ok := job.Annotations[key]; ok {
			pod.Annotations[key] = v
		}
	}
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	}
	if pod.Spec.SchedulerName == "" {
		pod.Spec.SchedulerName = job.Spec.SchedulerName
	}
	if pod.Spec.PriorityClassName == "" {
		pod.Spec.PriorityClassName = job.Spec.PriorityClassName
	}
	if pod.Annotations[wellknown.QueueAllocationGate] == "true" {
		closeGate(&pod.Spec)
	}
	mountVolumes(job, &pod.Spec)
	return pod
}

// closeGate keeps a pod from being scheduled until its queue has room: the scheduler
// opens the gate then.
func closeGate(spec *corev1.PodSpec) {
	gate := corev1.PodSchedulingGate{Name: wellknown.QueueAllocationGate}
	if !slices.Contains(spec.SchedulingGates, gate) {
		spec.SchedulingGates = append(spec.SchedulingGates, gate)
	}
}

func mountVolumes(job *batch.Job, spec *corev1.PodSpec) {
	for i := range job.Spec.Volumes {
		name := fmt.Sprintf("job-volume-%d", i)
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(job, i)},
		}})
		mount := corev1.VolumeMount{Name: name, MountPath: job.Spec.Volumes[i].MountPath}
		for j := range spec.InitContainers {
			spec.InitContainers[j].VolumeMounts = append(spec.InitContainers[j].VolumeMounts, mount)
		}
		for j := range spec.Containers {
			spec.Containers[j].VolumeMounts = append(spec.Containers[j].VolumeMounts, mount)
		}
	}
}

// ClaimNames lists the claims that spec.volumes mounts, in the order of the volumes.
func ClaimNames(job *batch.Job) []string {
	var out []string
	for i := range job.Spec.Volumes {
		out = append(out, claimName(job, i))
	}
	return out
}

// Claims lists the claims that spec.volumes asks to be made. A claim that
// exists already is used as it is: a Job that Volcano's controllers began has their
// names in its spec.
func Claims(job *batch.Job) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for i := range job.Spec.Volumes {
		v := &job.Spec.Volumes[i]
		if v.VolumeClaim == nil {
			continue
		}
		out = append(out, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace:       job.Namespace,
				Name:            claimName(job, i),
				OwnerReferences: []metav1.OwnerReference{OwnerOf(job)},
			},
			Spec: *v.VolumeClaim.DeepCopy(),
		})
	}
	return out
}
