package cache

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func nativeKey(namespace, name string) string { return "native/" + namespace + "/" + name }

// SetNativeGroup takes in a PodGroup of Kubernetes' own API.
func (c *Cache) SetNativeGroup(pg *schedulingv1beta1.PodGroup) {
	_, conditions := nativeStatus(pg.Status)
	c.setGroup(newNativeSpec(pg), conditions)
}

// DeleteNativeGroup forgets one; its pods stay and wait for it.
func (c *Cache) DeleteNativeGroup(namespace, name, uid string) {
	c.deleteGroup(nativeKey(namespace, name), uid)
}

func newNativeSpec(pg *schedulingv1beta1.PodGroup) groupSpec {
	g := groupSpec{
		GangSpec: snapshot.GangSpec{
			Key: nativeKey(pg.Namespace, pg.Name), UID: string(pg.UID), Namespace: pg.Namespace, Name: pg.Name, Native: true,
			Queue: pg.Annotations[volcanov1.QueueNameAnnotationKey], CreatedAt: pg.CreationTimestamp.UnixNano(),
			MinMember: 1, WaitAtMost: waitAtMost(pg.Annotations),
		},
		priorityClass: pg.Spec.PriorityClassName, nativePriority: pg.Spec.Priority,
		patient: pg.Spec.PreemptionPolicy != nil && *pg.Spec.PreemptionPolicy == schedulingv1beta1.PreemptNever,
		whole:   pg.Spec.DisruptionMode != nil && pg.Spec.DisruptionMode.All != nil,
		version: pg.ResourceVersion,
	}
	g.say(pg.ObjectMeta)
	if gang := pg.Spec.SchedulingPolicy.Gang; gang != nil {
		g.MinMember = int64(gang.MinCount)
	}
	if cs := pg.Spec.SchedulingConstraints; cs != nil && len(cs.Topology) > 0 {
		// The API allows one today; of several the first would be the closest known.
		g.Topology = &snapshot.Topology{Hard: true, Tier: -1, Key: cs.Topology[0].Key}
	}
	g.Status, _ = nativeStatus(pg.Status)
	return g
}

// nativeStatus is the one condition of a PodGroup of Kubernetes' own API that is the
// scheduler's. It has no phases, and nobody counts its pods.
func nativeStatus(s schedulingv1beta1.PodGroupStatus) (snapshot.GroupStatus, []volcanov1.PodGroupCondition) {
	for _, c := range s.Conditions {
		if c.Type == schedulingv1beta1.PodGroupInitiallyScheduled {
			return snapshot.GroupStatus{Conditions: []snapshot.Condition{{Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message}}},
				[]volcanov1.PodGroupCondition{{
					Type: volcanov1.PodGroupConditionType(c.Type), Status: corev1.ConditionStatus(c.Status), LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
				}}
		}
	}
	return snapshot.GroupStatus{}, nil
}
