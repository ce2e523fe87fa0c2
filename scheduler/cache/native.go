package cache

import (
	"reflect"

	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func nativeKey(namespace, name string) string { return "native/" + namespace + "/" + name }

// SetNativeGroup takes in a PodGroup of Kubernetes' own API.
func (c *Cache) SetNativeGroup(pg *schedulingv1beta1.PodGroup) {
	spec := newNativeSpec(pg)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.gang(spec.Key)
	if e.group != nil {
		old := *e.group
		old.version = spec.version
		if reflect.DeepEqual(old, spec) {
			e.group.version = spec.version
			return
		}
	}
	c.regroup(e, &spec)
	c.signal()
}

// DeleteNativeGroup forgets one; its pods stay and wait for it.
func (c *Cache) DeleteNativeGroup(namespace, name, uid string) {
	c.deleteGroup(nativeKey(namespace, name), uid)
}

func newNativeSpec(pg *schedulingv1beta1.PodGroup) groupSpec {
	g := groupSpec{
		GangSpec: snapshot.GangSpec{
			Key: nativeKey(pg.Namespace, pg.Name), UID: string(pg.UID), Namespace: pg.Namespace, Name: pg.Name, Native: true,
			Queue: firstOf(pg.Annotations[volcanov1.QueueNameAnnotationKey], volcanov1.DefaultQueue), CreatedAt: pg.CreationTimestamp.UnixNano(),
			MinMember: 1, WaitAtMost: waitAtMost(pg.Annotations),
		},
		priorityClass: pg.Spec.PriorityClassName, nativePriority: pg.Spec.Priority,
		version: pg.ResourceVersion,
	}
	if gang := pg.Spec.SchedulingPolicy.Gang; gang != nil {
		g.MinMember = int64(gang.MinCount)
	}
	if cs := pg.Spec.SchedulingConstraints; cs != nil && len(cs.Topology) > 0 {
		// The API allows one today; of several the first would be the closest known.
		g.Topology = &snapshot.Topology{Hard: true, Tier: -1, Key: cs.Topology[0].Key}
	}
	for _, c := range pg.Status.Conditions {
		if c.Type == schedulingv1beta1.PodGroupInitiallyScheduled {
			g.Status.Conditions = []snapshot.Condition{{Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message}}
		}
	}
	return g
}
