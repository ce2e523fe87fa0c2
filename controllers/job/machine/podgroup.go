package machine

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresource "k8s.io/component-helpers/resource"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

// newPodGroup builds the PodGroup of a job that Default has completed, in phase
// Pending; from there on its status belongs to the scheduler.
func newPodGroup(job *batch.Job, version int32) *scheduling.PodGroup {
	annotations := map[string]string{}
	for k, v := range job.Annotations {
		if k != corev1.LastAppliedConfigAnnotation {
			annotations[k] = v
		}
	}
	annotations[batch.JobVersion] = strconv.Itoa(int(version))
	return &scheduling.PodGroup{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       job.Namespace,
			Name:            PodGroupName(job),
			Labels:          copyOf(job.Labels),
			Annotations:     annotations,
			OwnerReferences: []metav1.OwnerReference{OwnerOf(job)},
		},
		Spec:   podGroupSpec(job),
		Status: scheduling.PodGroupStatus{Phase: scheduling.PodGroupPending},
	}
}

func podGroupSpec(job *batch.Job) scheduling.PodGroupSpec {
	spec := scheduling.PodGroupSpec{
		MinMember:         job.Spec.MinAvailable,
		Queue:             job.Spec.Queue,
		PriorityClassName: job.Spec.PriorityClassName,
		MinResources:      minResources(job),
	}
	// When the job asks for fewer pods than its tasks do together, the job's
	// number rules alone: a gang of minMember is then enough to start.
	if int64(job.Spec.MinAvailable) >= sumOfTaskMins(job) {
		for i := range job.Spec.Tasks {
			if spec.MinTaskMember == nil {
				spec.MinTaskMember = map[string]int32{}
			}
			spec.MinTaskMember[job.Spec.Tasks[i].Name] = *job.Spec.Tasks[i].MinAvailable
		}
	}
	if nt := job.Spec.NetworkTopology; nt != nil {
		spec.NetworkTopology = &scheduling.NetworkTopologySpec{
			Mode:            scheduling.NetworkTopologyMode(nt.Mode),
			HighestTierName: nt.HighestTierName,
		}
		if nt.Mode == "" {
			spec.NetworkTopology.Mode = scheduling.HardNetworkTopologyMode
		}
		if nt.HighestTierAllowed != nil {
			tier := *nt.HighestTierAllowed
			spec.NetworkTopology.HighestTierAllowed = &tier
		}
	}
	return spec
}

// minResources is what the first minAvailable pods request: first the minimum
// of every task in the order of the spec, then what is left of the tasks.
func minResources(job *batch.Job) *corev1.ResourceList {
	left := int64(job.Spec.MinAvailable)
	take := make([]int64, len(job.Spec.Tasks))
	for i := range job.Spec.Tasks {
		take[i] = min(left, int64(*job.Spec.Tasks[i].MinAvailable))
		left -= take[i]
	}
	for i := range job.Spec.Tasks {
		more := min(left, int64(job.Spec.Tasks[i].Replicas)-take[i])
		take[i] += more
		left -= more
	}
	total := corev1.ResourceList{}
	for i := range job.Spec.Tasks {
		requests := podresource.PodRequests(&corev1.Pod{Spec: job.Spec.Tasks[i].Template.Spec}, podresource.PodResourcesOptions{})
		for name, q := range requests {
			q = q.DeepCopy()
			q.Mul(take[i])
			sum := total[name]
			sum.Add(q)
			total[name] = sum
		}
	}
	return &total
}

// OwnerOf is the owner reference that every object of a job carries. The API
// server's garbage collector deletes them after the job.
func OwnerOf(job *batch.Job) metav1.OwnerReference {
	return *metav1.NewControllerRef(job, batch.SchemeGroupVersion.WithKind("Job"))
}

func copyOf(m map[string]string) map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}
