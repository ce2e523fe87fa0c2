package machine

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const defaultMaxRetry = 3

// Default returns a copy of job with the unset fields of its spec filled in as
// Volcano's admission does it. The copy is for decisions only: it is never
// written back, so a user's Job stays as it was applied. Default is idempotent.
func Default(job *batch.Job) *batch.Job {
	job = job.DeepCopy()
	spec := &job.Spec
	if spec.Queue == "" {
		spec.Queue = scheduling.DefaultQueue
	}
	if spec.SchedulerName == "" {
		spec.SchedulerName = wellknown.SchedulerVolcano
	}
	if spec.MaxRetry == 0 {
		spec.MaxRetry = defaultMaxRetry
	}
	// Frameworks whose processes look for each other by name get the names, and
	// mpirun, which starts its processes by ssh, the keys.
	for _, name := range []string{"tensorflow", "mpi", "pytorch", "ray", "mindspore"} {
		if _, ok := spec.Plugins[name]; ok {
			addPlugin(spec, "svc")
		}
	}
	if _, ok := spec.Plugins["mpi"]; ok {
		addPlugin(spec, "ssh")
	}
	for i := range spec.Tasks {
		task := &spec.Tasks[i]
		if task.Name == "" {
			task.Name = batch.DefaultTaskSpec + strconv.Itoa(i)
		}
		if task.MinAvailable == nil {
			task.MinAvailable = ptr.To(task.Replicas)
			if pp := task.PartitionPolicy; pp != nil && pp.MinPartitions > 0 {
				least := int64(pp.MinPartitions) * int64(pp.PartitionSize)
				task.MinAvailable = ptr.To(int32(max(0, min(least, int64(task.Replicas))))) //nolint:gosec // at most replicas
			}
		}
		if task.MaxRetry == 0 {
			task.MaxRetry = defaultMaxRetry
		}
		if task.Template.Spec.HostNetwork && task.Template.Spec.DNSPolicy == "" {
			task.Template.Spec.DNSPolicy = corev1.DNSClusterFirstWithHostNet
		}
	}
	if spec.MinAvailable == 0 {
		spec.MinAvailable = int32(min(sumOfTaskMins(job), int64(maxReplicas)))
	}
	return job
}

func addPlugin(spec *batch.JobSpec, name string) {
	if _, ok := spec.Plugins[name]; !ok {
		spec.Plugins[name] = []string{}
	}
}

// totalReplicas is 64 bits wide so that no spec makes it overflow.
func totalReplicas(job *batch.Job) int64 {
	var n int64
	for i := range job.Spec.Tasks {
		n += int64(job.Spec.Tasks[i].Replicas)
	}
	return n
}

func sumOfTaskMins(job *batch.Job) int64 {
	var n int64
	for i := range job.Spec.Tasks {
		n += int64(ptr.Deref(job.Spec.Tasks[i].MinAvailable, job.Spec.Tasks[i].Replicas))
	}
	return n
}
