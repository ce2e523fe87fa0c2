package machine

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// newPodGroup builds the PodGroup of a job that Default has completed, in phase
// Pending; from there on its status belongs to the scheduler.
func newPodGroup(job *batch.Job, version int32, r release) *scheduling.PodGroup {
	annotations := map[string]string{}
	for k, v := range job.Annotations {
		switch k {
		case corev1.LastAppliedConfigAnnotation:
		case wellknown.Nomination, wellknown.Staging: // the scheduler alone says these of a PodGroup
		default:
			annotations[k] = v
		}
	}
	if d := job.Spec.RunningEstimate; d != nil {
		annotations[wellknown.RunningEstimate] = d.Duration.String()
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
		Spec:   podGroupSpec(job, r),
		Status: scheduling.PodGroupStatus{Phase: scheduling.PodGroupPending},
	}
}

// takeOver gives a PodGroup that carries no version the one that it is of: one that
// Volcano's controllers made has none, and must not be taken for that of an older
// version, under whose pods it would be deleted. Volcano deletes it with the kill
// that raises the version: in a phase that only such a kill leads to, it is what a
// stop of Volcano left behind. A restart may be one of a part; then pods of the
// version are there.
func (p *pass) takeOver() {
	pg, st := p.in.PodGroup, &p.in.Job.Status
	if pg == nil {
		return
	}
	if _, ok := pg.Annotations[batch.JobVersion]; ok {
		return
	}
	version := st.Version
	switch phase := st.State.Phase; {
	case active(phase), phase == batch.Completed, phase == batch.Failed:
	case phase == batch.Restarting && slices.ContainsFunc(p.members, func(m member) bool { return m.version == version && !m.terminating() }):
	default:
		version = max(0, version-1)
	}
	p.in.PodGroup = pg.DeepCopy()
	if p.in.PodGroup.Annotations == nil {
		p.in.PodGroup.Annotations = map[string]string{}
	}
	p.in.PodGroup.Annotations[batch.JobVersion] = strconv.Itoa(int(version))
	if pg.DeletionTimestamp == nil && !Finished(st.State.Phase) {
		p.out.StampPodGroup = &version
	}
}

// podGroupSpec is about the tasks that may have pods: a gang that waited for the
// pods of a task that waits for the gang would wait for ever.
func podGroupSpec(job *batch.Job, r release) scheduling.PodGroupSpec {
	var mins, replicas int64
	for i := range job.Spec.Tasks {
		if task := &job.Spec.Tasks[i]; r.tasks[task.Name] {
			mins += int64(*task.MinAvailable)
			replicas += int64(task.Replicas)
		}
	}
	least := int64(job.Spec.MinAvailable)
	whole := least >= sumOfTaskMins(job)
	switch {
	case len(r.wait) == 0:
	case whole:
		least = mins
	default:
		least = min(least, replicas)
	}
	spec := scheduling.PodGroupSpec{
		MinMember:         int32(least), //nolint:gosec // at most maxReplicas, see Validate
		Queue:             job.Spec.Queue,
		PriorityClassName: job.Spec.PriorityClassName,
		MinResources:      minResources(job, least, r),
	}
	// When the job asks for fewer pods than its tasks do together, the job's
	// number rules alone: a gang of minMember is then enough to start.
	if whole {
		for i := range job.Spec.Tasks {
			if !r.tasks[job.Spec.Tasks[i].Name] {
				continue
			}
			if spec.MinTaskMember == nil {
				spec.MinTaskMember = map[string]int32{}
			}
			spec.MinTaskMember[job.Spec.Tasks[i].Name] = *job.Spec.Tasks[i].MinAvailable
		}
	}
	spec.NetworkTopology = networkTopology(job.Spec.NetworkTopology)
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		pp := task.PartitionPolicy
		if pp == nil || !r.tasks[task.Name] {
			continue
		}
		spec.SubGroupPolicy = append(spec.SubGroupPolicy, scheduling.SubGroupPolicySpec{
			Name:            task.Name,
			NetworkTopology: networkTopology(pp.NetworkTopology),
			SubGroupSize:    ptr.To(pp.PartitionSize),
			MinSubGroups:    ptr.To(pp.MinPartitions),
			LabelSelector:   &metav1.LabelSelector{MatchLabels: map[string]string{batch.TaskSpecKey: task.Name}},
			MatchLabelKeys:  []string{batch.TaskPartitionID},
		})
	}
	return spec
}

func networkTopology(nt *batch.NetworkTopologySpec) *scheduling.NetworkTopologySpec {
	if nt == nil {
		return nil
	}
	out := &scheduling.NetworkTopologySpec{Mode: scheduling.NetworkTopologyMode(nt.Mode), HighestTierName: nt.HighestTierName}
	if nt.Mode == "" {
		out.Mode = scheduling.HardNetworkTopologyMode
	}
	if nt.HighestTierAllowed != nil {
		out.HighestTierAllowed = ptr.To(*nt.HighestTierAllowed)
	}
	return out
}

// minResources is what the first pods of the released tasks request, as many as
// left says: first the minimum of every task in the order of the spec, then what
// is left of the tasks.
func minResources(job *batch.Job, left int64, r release) *corev1.ResourceList {
	take := make([]int64, len(job.Spec.Tasks))
	for i := range job.Spec.Tasks {
		if !r.tasks[job.Spec.Tasks[i].Name] {
			continue
		}
		take[i] = min(left, int64(*job.Spec.Tasks[i].MinAvailable))
		left -= take[i]
	}
	for i := range job.Spec.Tasks {
		if !r.tasks[job.Spec.Tasks[i].Name] {
			continue
		}
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
