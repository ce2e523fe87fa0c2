package queue

import (
	corev1 "k8s.io/api/core/v1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/podrequests"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

// ledger computes the status of every queue from one look at the cluster: how
// many PodGroups are in which phase, and what the pods that hold a place on a
// node request. What a queue has allocated counts for its ancestors as well.
// The state is kept, except that an unset one becomes Open and a closing queue
// whose PodGroups have all completed becomes Closed: those of finished Jobs stay as
// long as the Jobs do, where Volcano deletes them. Only queues that exist are in
// the result.
func ledger(queues []scheduling.Queue, groups []scheduling.PodGroup, pods []corev1.Pod) map[string]scheduling.QueueStatus {
	statuses := make(map[string]*scheduling.QueueStatus, len(queues))
	parents := make(map[string]string, len(queues))
	for i := range queues {
		q := &queues[i]
		statuses[q.Name] = &scheduling.QueueStatus{
			State:       q.Status.State,
			Reservation: *q.Status.Reservation.DeepCopy(),
			Allocated:   corev1.ResourceList{},
		}
		parents[q.Name] = queuetree.Parent(q)
	}
	unfinished := map[string]bool{} // queues with work, present or to come
	queueOf := make(map[string]string, len(groups))
	for i := range groups {
		pg := &groups[i]
		name := pg.Spec.Queue
		if name == "" {
			name = scheduling.DefaultQueue
		}
		queueOf[pg.Namespace+"/"+pg.Name] = name
		st, ok := statuses[name]
		if !ok {
			continue
		}
		unfinished[name] = unfinished[name] || pg.Status.Phase != scheduling.PodGroupCompleted
		switch pg.Status.Phase {
		case scheduling.PodGroupPending, "":
			st.Pending++
		case scheduling.PodGroupInqueue:
			st.Inqueue++
		case scheduling.PodGroupRunning:
			st.Running++
		case scheduling.PodGroupCompleted:
			st.Completed++
		default:
			st.Unknown++
		}
	}
	for i := range pods {
		pod := &pods[i]
		if !holdsPlace(pod) {
			continue
		}
		// What a pod has been given counts, as in the scheduler's books: a resize in place
		// that a node refuses asks for more than that.
		requests := podrequests.Held(pod)
		name := queueOfPod(pod, queueOf)
		// A loop of parents is a mistake of the spec: it is cut, not followed.
		for range len(queues) {
			st, ok := statuses[name]
			if !ok {
				break
			}
			for resource, q := range requests {
				sum := st.Allocated[resource]
				sum.Add(q)
				st.Allocated[resource] = sum
			}
			if parents[name] == "" || parents[name] == name {
				break
			}
			name = parents[name]
		}
	}
	out := make(map[string]scheduling.QueueStatus, len(statuses))
	for name, st := range statuses {
		switch {
		case st.State == "":
			st.State = scheduling.QueueStateOpen
		case st.State == scheduling.QueueStateClosing && !unfinished[name]:
			st.State = scheduling.QueueStateClosed
		}
		out[name] = *st
	}
	return out
}

// holdsPlace says that a pod of ours is bound and has not ended.
func holdsPlace(pod *corev1.Pod) bool {
	ours := pod.Spec.SchedulerName == wellknown.SchedulerVolcano || pod.Spec.SchedulerName == wellknown.SchedulerIsthmus
	return ours && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// queueOfPod is the queue of the pod's PodGroup; a pod without one names its
// queue itself or is in the default queue.
func queueOfPod(pod *corev1.Pod, queueOf map[string]string) string {
	for _, key := range []string{wellknown.PodGroupName, scheduling.VolcanoGroupNameAnnotationKey} {
		if group := pod.Annotations[key]; group != "" {
			if name, ok := queueOf[pod.Namespace+"/"+group]; ok {
				return name
			}
		}
	}
	for _, name := range []string{pod.Annotations[scheduling.QueueNameAnnotationKey], pod.Labels[queueLabel]} {
		if name != "" {
			return name
		}
	}
	return scheduling.DefaultQueue
}
