// Package podrequests says what a pod holds on its node, for all who keep books of that:
// those that place pods and those that tell what a queue's pods have. It is pure.
package podrequests

import (
	corev1 "k8s.io/api/core/v1"
	podresource "k8s.io/component-helpers/resource"
)

// Held is what the pod holds on its node: what it asks for and what its containers have
// been given, whichever is more, and of a resize that its node refuses for good only what
// they have. It is what Kubernetes' own scheduler counts, to the unit. Whoever changes the
// list changes nothing of the pod.
//
// The library that it is asked of adds up all containers three times once it is to look at
// their statuses, which nearly always say what the pod asks for: it is to look only where
// one says something else.
func Held(pod *corev1.Pod) corev1.ResourceList {
	return podresource.PodRequests(pod, podresource.PodResourcesOptions{UseStatusResources: statusesMatter(pod)})
}

// HeldToRead is Held for those who change nothing of the list, which may be the pod's own:
// most pods have one container, and hold what that asks for.
func HeldToRead(pod *corev1.Pod) corev1.ResourceList {
	s := &pod.Spec
	if len(s.Containers) == 1 && len(s.InitContainers) == 0 && s.Overhead == nil && s.Resources == nil && !statusesMatter(pod) {
		return s.Containers[0].Resources.Requests
	}
	return Held(pod)
}

// statusesMatter says that the pod may hold something else than its spec asks for. The
// most of three sums is the spec's own as long as no container has more than it asks for.
func statusesMatter(pod *corev1.Pod) bool {
	if podresource.IsPodResizeInfeasible(pod) {
		return true // then the spec is no measure
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range statuses {
			s := &statuses[i]
			if s.AllocatedResources == nil && (s.Resources == nil || s.Resources.Requests == nil) {
				continue
			}
			asked, ok := askedBy(pod, s.Name)
			if !ok {
				continue // of no container that the pod has
			}
			if more(s.AllocatedResources, asked) || s.Resources != nil && more(s.Resources.Requests, asked) {
				return true
			}
		}
	}
	return false
}

// askedBy is what the container of that name asks for.
func askedBy(pod *corev1.Pod, name string) (corev1.ResourceList, bool) {
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == name {
				return containers[i].Resources.Requests, true
			}
		}
	}
	return nil, false
}

// more says that one list has something that the other lacks or has less of.
func more(one, other corev1.ResourceList) bool {
	for name, q := range one {
		if than, ok := other[name]; !ok || q.Cmp(than) > 0 {
			return true
		}
	}
	return false
}
