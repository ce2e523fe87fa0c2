package cache

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/podrequests"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// newPodEntry reads a pod. It leaves the class to the cache, which knows what others see
// of the pod.
func newPodEntry(p *corev1.Pod, ours bool) *podEntry {
	e := &podEntry{
		pod: snapshot.Pod{
			UID: string(p.UID), Namespace: p.Namespace, Name: p.Name,
			Phase: string(p.Status.Phase), Node: p.Spec.NodeName,
			Attempt:     p.Annotations[wellknown.GangAttempt],
			Size:        number(p.Annotations[wellknown.GangSize]),
			Rank:        number(p.Annotations[wellknown.GangRank]),
			Submitted:   p.Annotations[wellknown.SubmitIntent] != "" || p.Annotations[wellknown.BatchJobID] != "",
			Gated:       len(p.Spec.SchedulingGates) > 0,
			Terminating: p.DeletionTimestamp != nil,
		},
	}
	if after := p.Annotations[wellknown.After]; after != "" {
		e.pod.After = strings.Split(after, ",")
	}
	e.pod.Gate = gateOf(p)
	if e.pod.Phase == "" || e.pod.Phase == string(corev1.PodUnknown) {
		e.pod.Phase = snapshot.PodPending
	}
	e.pod.Devices = devicesOf(p)
	e.handed = handedOf(p)
	e.pod.Cells = decided(p.Annotations[wellknown.TopologyDecision])
	if p.Spec.NodeName == "" {
		// Only a binding of ours writes these; on an unbound pod they mean nothing.
		e.pod.Attempt, e.pod.Size, e.pod.Rank, e.pod.Devices, e.pod.Cells = "", 0, 0, nil, nil
	}
	e.spec.Requests = requests(p)
	e.spec.HostPorts = hostPorts(p)
	e.spec.GPU = gpuSpec(p, e.spec.Requests)
	e.labels = p.Labels
	e.spec.Claims = asksOf(p)
	e.spec.Peers = peersOf(p, ours)
	if ours {
		ourPod(e, p)
	}
	return e
}

// ourPod fills in what matters for placing and grouping a pod.
func ourPod(e *podEntry, p *corev1.Pod) {
	e.pod.Task = firstOf(p.Annotations[batchv1.TaskSpecKey], p.Labels[batchv1.TaskSpecKey])
	e.pod.Priority = podPriority(p.Annotations, p.Spec.Priority)
	e.pod.Index = number(firstOf(p.Annotations[batchv1.TaskIndex], p.Labels[batchv1.TaskIndex]))
	e.spec.NodeSelector = p.Spec.NodeSelector
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		e.spec.Affinity = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		e.spec.PreferredNodes = a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	e.spec.Tolerations = p.Spec.Tolerations
	e.spec.NUMA = numaAsk(p)
	e.images = imagesAsked(p)
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		e.spec.DaemonSet = ref.Kind == "DaemonSet"
	}
	if p.Spec.Priority != nil {
		e.priority = *p.Spec.Priority
	}
	contend(e, p)
	e.reads = listOf(p.Annotations[wellknown.Datasets])
	group := firstOf(p.Annotations[wellknown.PodGroupName], p.Annotations[volcanov1.VolcanoGroupNameAnnotationKey])
	e.stand = standing{
		namespace: p.Namespace, name: group, absent: true,
		queue: firstOf(p.Annotations[volcanov1.QueueNameAnnotationKey], volcanov1.DefaultQueue),
	}
	native := ""
	if p.Spec.SchedulingGroup != nil && p.Spec.SchedulingGroup.PodGroupName != nil {
		native = *p.Spec.SchedulingGroup.PodGroupName
	}
	switch {
	case native != "" && group == "":
		e.stand.name, e.stand.native = native, true
		e.gang = nativeKey(p.Namespace, native)
	case group == "" && number(p.Annotations[volcanov1.VolcanoGroupMinMemberAnnotationKey]) > 1:
		// It does not go alone: the controllers make the PodGroup.
		e.stand.name = ownersGroup(p)
		e.gang = groupKey(p.Namespace, e.stand.name)
	case group == "":
		e.stand.name, e.stand.uid, e.stand.plain, e.stand.absent = p.Name, e.pod.UID, true, false
		e.stand.createdAt = p.CreationTimestamp.UnixNano()
		e.stand.waitAtMost = waitAtMost(p.Annotations)
		// Two pods of one name may overlap in the watch; each is its own gang.
		e.gang = "pod/" + p.Namespace + "/" + p.Name + "/" + e.pod.UID
	default:
		e.gang = groupKey(p.Namespace, group)
	}
	if p.Spec.NodeName != "" {
		e.bound = p.CreationTimestamp.UnixNano() // of one that was made on its node
	}
	for _, c := range p.Status.Conditions {
		switch {
		case c.Type != corev1.PodScheduled:
		case c.Status == corev1.ConditionFalse:
			e.waitReason, e.waitMessage = c.Reason, c.Message
		case e.bound != 0 && !c.LastTransitionTime.IsZero():
			e.bound = c.LastTransitionTime.UnixNano()
		}
	}
}

// gateOf says what is between a pod and its queue's room. A pod that others hold back
// as well waits for them first, so that no room is kept for it in vain.
func gateOf(p *corev1.Pod) string {
	gates := p.Spec.SchedulingGates
	switch {
	case len(gates) == 1 && gates[0].Name == wellknown.QueueAllocationGate:
		return snapshot.GateClosed
	case len(gates) == 0 && p.Annotations[wellknown.QueueAllocationGate] == "true":
		return snapshot.GateOpen
	}
	return ""
}

// ownersGroup is the name of the PodGroup that the controllers make for the pod:
// podgroup- and the UID of the owner that controls it, or else its own.
func ownersGroup(p *corev1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		return batchv1.PodgroupNamePrefix + string(ref.UID)
	}
	return batchv1.PodgroupNamePrefix + string(p.UID)
}

// A pod that is made smaller in place holds what it had until the kubelet has done so.
func requests(p *corev1.Pod) resource.List {
	held := podrequests.HeldToRead(p)
	qs := append(make([]resource.Quantity, 0, len(held)+1), resource.Quantity{Name: string(corev1.ResourcePods), Amount: 1})
	for name, q := range held {
		if v := resource.Requested(string(name), q); v > 0 {
			qs = append(qs, resource.Quantity{Name: string(name), Amount: v})
		}
	}
	return resource.Take(qs)
}

func hostPorts(p *corev1.Pod) []snapshot.HostPort {
	var out []snapshot.HostPort
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range cs {
			for _, port := range c.Ports {
				if port.HostPort == 0 {
					continue
				}
				ip := port.HostIP
				if ip == "0.0.0.0" || ip == "::" {
					ip = ""
				}
				out = append(out, snapshot.HostPort{Protocol: firstOf(string(port.Protocol), "TCP"), IP: ip, Port: port.HostPort})
			}
		}
	}
	return out
}

// gpuSpec is what a pod says about its GPUs, nil for nothing.
func gpuSpec(p *corev1.Pod, requests resource.List) *snapshot.GPUSpec {
	a := p.Annotations
	s := snapshot.GPUSpec{
		Joined: a[wellknown.GPULink] == "required",
		Models: listOf(strings.ToLower(a[wellknown.UseGPUType])), NotModels: listOf(strings.ToLower(a[wellknown.NoUseGPUType])),
		UUIDs: listOf(a[wellknown.UseGPUUUID]), NotUUIDs: listOf(a[wellknown.NoUseGPUUUID]),
		Modes: listOf(a[wellknown.GPUModes]), Scattered: scattered(p),
	}
	s.Modes = append(s.Modes, volcanosMode(p)...)
	if snapshot.SharesGPUs(requests) {
		s.Tenant = p.Namespace
	}
	if !s.Joined && !s.Scattered && s.Tenant == "" && len(s.Models)+len(s.NotModels)+len(s.UUIDs)+len(s.NotUUIDs)+len(s.Modes) == 0 {
		return nil // of most pods, and no memory is taken for it
	}
	said := s
	return &said
}
