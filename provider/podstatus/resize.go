package podstatus

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// reasonRequeued is the reason of DisruptionTarget while a job waits again.
const reasonRequeued = "RequeuedByBatchSystem"

// undisturbed takes DisruptionTarget back once a requeued job runs again, or has
// ended in another way than by the requeue.
func (w *writer) undisturbed() {
	for _, c := range w.s.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == reasonRequeued {
			w.set(corev1.DisruptionTarget, corev1.ConditionFalse, "Running", "the job went on")
		}
	}
}

// resize tells what the batch job holds, and answers a wish for other resources:
// a batch job keeps those that it was submitted with.
func (w *writer) resize() {
	if terminal(w.s.Phase) {
		return
	}
	var other []string
	check := func(specs []corev1.Container, statuses []corev1.ContainerStatus) {
		for i := range statuses {
			if i >= len(specs) || statuses[i].Name != specs[i].Name {
				return
			}
			s := &statuses[i]
			if s.Resources == nil || w.pod.Annotations[wellknown.BatchJobID] == "" { // not submitted yet

				s.Resources, s.AllocatedResources = specs[i].Resources.DeepCopy(), specs[i].Resources.Requests.DeepCopy()
				s.Resources.Claims = nil
				continue
			}
			if !same(s.Resources.Requests, specs[i].Resources.Requests) || !same(s.Resources.Limits, specs[i].Resources.Limits) {
				other = append(other, specs[i].Name)
			}
		}
	}
	check(w.pod.Spec.InitContainers, w.s.InitContainerStatuses)
	check(w.pod.Spec.Containers, w.s.ContainerStatuses)
	if len(other) > 0 {
		w.set(corev1.PodResizePending, corev1.ConditionTrue, corev1.PodReasonInfeasible,
			clip(fmt.Sprintf("a batch job keeps the resources that it was submitted with; containers that ask for others now: %v", other)))
		return
	}
	w.s.Conditions = slices.DeleteFunc(w.s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizePending })
}

func same(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, x := range a {
		if y, ok := b[name]; !ok || x.Cmp(y) != 0 {
			return false
		}
	}
	return true
}
