package cache

import (
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// contend fills in what decides whether others may take the pod's place.
func contend(e *podEntry, p *corev1.Pod) {
	e.labels = p.Labels
	e.pod.Protected = protected(p)
	e.job = jobOf(p)
	e.spec.Revocable = revocable(p.Annotations)
	e.pod.Movable = e.job != "" && (yields(p.Labels) || yields(p.Annotations))
	e.pod.Cooldown = int64(duration(firstOf(p.Labels[volcanov1.CooldownTime], p.Annotations[volcanov1.CooldownTime])))
	e.pod.Lost = lost(p)
	e.past = historyOf(p)
	e.patient = p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == corev1.PreemptNever
	if p.Status.Phase == corev1.PodRunning {
		e.pod.StartedAt = started(p)
	}
	switch {
	case p.Annotations[wellknown.RunningEstimate] != "":
		e.estimate, e.estimateFrom = int64(duration(p.Annotations[wellknown.RunningEstimate])), snapshot.EstimateDeclared
	case p.Spec.ActiveDeadlineSeconds != nil:
		e.estimate, e.estimateFrom = *p.Spec.ActiveDeadlineSeconds*int64(time.Second), snapshot.EstimateDeadline
	case p.Annotations[wellknown.Walltime] != "":
		e.estimate, e.estimateFrom = int64(duration(p.Annotations[wellknown.Walltime])), snapshot.EstimateDeadline
	}
}

// lost reports whether the pod failed because its place was taken from it.
func lost(p *corev1.Pod) bool {
	if p.Status.Phase != corev1.PodFailed {
		return false
	}
	switch p.Status.Reason { // as kubelets and controllers of Kubernetes say it
	case "Evicted", "NodeLost", "NodeShutdown", "Terminated", "NodeAffinity", "OutOfcpu", "OutOfmemory", "OutOfpods", "UnexpectedAdmissionError":
		return true
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// protected says why nobody may take the pod's place: the set that Kubernetes'
// own components are in, and what its owner asked for.
func protected(p *corev1.Pod) string {
	switch {
	case p.Namespace == metav1.NamespaceSystem:
		return "it is in " + metav1.NamespaceSystem
	case p.Spec.PriorityClassName == "system-cluster-critical" || p.Spec.PriorityClassName == "system-node-critical":
		return "its priority class is " + p.Spec.PriorityClassName
	case keeps(p.Labels) || keeps(p.Annotations):
		return volcanov1.PodPreemptable + " is false"
	}
	return ""
}

// revocable are the zones that a pod may be in: what it says, or else any if it says that
// it is preemptable, as Volcano takes it.
func revocable(annotations map[string]string) []string {
	if zones, ok := annotations[volcanov1.RevocableZone]; ok {
		return listOf(zones)
	}
	if yields(annotations) {
		return []string{"*"}
	}
	return nil
}

// yields reports whether a pod, or its PodGroup, may be sent away by its own word, which
// is read as Volcano does: what is no boolean is false.
func yields(m map[string]string) bool {
	said := m[volcanov1.PodPreemptable]
	if said == "" {
		return false
	}
	yes, err := strconv.ParseBool(said)
	return err == nil && yes
}

func keeps(m map[string]string) bool {
	_, said := m[volcanov1.PodPreemptable]
	return said && !yields(m)
}

// started is when the first container began, or else when the kubelet took the pod.
func started(p *corev1.Pod) int64 {
	var first int64
	for _, c := range p.Status.ContainerStatuses {
		if r := c.State.Running; r != nil && (first == 0 || r.StartedAt.UnixNano() < first) {
			first = r.StartedAt.UnixNano()
		}
	}
	if first == 0 && p.Status.StartTime != nil {
		first = p.Status.StartTime.UnixNano()
	}
	return first
}
