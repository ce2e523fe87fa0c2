package cache

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"

	kresource "k8s.io/apimachinery/pkg/api/resource"

	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// SetQueue takes in a queue.
func (c *Cache) SetQueue(q *volcanov1.Queue) {
	m := queueSpec(q)
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.queues[m.Name]
	if old != nil && reflect.DeepEqual(*old, m) {
		return
	}
	c.queues[m.Name] = &m
	var groups *snapshot.NodeGroups
	if old != nil {
		groups = old.Groups
	}
	c.regrouped(groups, m.Groups)
	c.signal()
}

// DeleteQueue forgets a queue.
func (c *Cache) DeleteQueue(name, uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if q := c.queues[name]; q != nil && q.UID == uid {
		delete(c.queues, name)
		c.regrouped(q.Groups, nil)
		c.signal()
	}
}

// regrouped starts over with what pods need when the node groups of a queue have
// changed, which is rare.
func (c *Cache) regrouped(old, now *snapshot.NodeGroups) {
	if !reflect.DeepEqual(old, now) {
		c.dims = nil
	}
}

// queueSpec is a queue as scheduling sees it. A capability is rounded down and
// what a queue is owed is rounded up.
func queueSpec(q *volcanov1.Queue) snapshot.Queue {
	return snapshot.Queue{
		Name: q.Name, UID: string(q.UID), Weight: int64(q.Spec.Weight), Priority: q.Spec.Priority, State: string(q.Status.State),
		Parent:        q.Spec.Parent,
		Capability:    amounts(q.Spec.Capability, resource.Offered),
		Deserved:      amounts(q.Spec.Deserved, resource.Requested),
		Guarantee:     amounts(q.Spec.Guarantee.Resource, resource.Requested),
		Unreclaimable: q.Spec.Reclaimable != nil && !*q.Spec.Reclaimable,
		Dequeue:       string(q.Spec.DequeueStrategy),
		Groups:        nodeGroups(q.Spec.Affinity),
		Hierarchy:     q.Annotations[volcanov1.KubeHierarchyAnnotationKey], HierarchyWeights: q.Annotations[volcanov1.KubeHierarchyWeightAnnotationKey],
	}
}

func amounts(l corev1.ResourceList, convert func(string, kresource.Quantity) int64) resource.List {
	if len(l) == 0 {
		return nil
	}
	var qs []resource.Quantity
	for name, q := range l {
		qs = append(qs, resource.Quantity{Name: string(name), Amount: convert(string(name), q)})
	}
	return resource.MakeList(qs...)
}

// nodeGroups orders the names; nil when the queue names no group at all.
func nodeGroups(a *volcanov1.Affinity) *snapshot.NodeGroups {
	if a == nil {
		return nil
	}
	var g snapshot.NodeGroups
	if in := a.NodeGroupAffinity; in != nil {
		g.Required = sorted(in.RequiredDuringSchedulingIgnoredDuringExecution)
		g.Preferred = sorted(in.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if out := a.NodeGroupAntiAffinity; out != nil {
		g.Forbidden = sorted(out.RequiredDuringSchedulingIgnoredDuringExecution)
		g.PreferredAway = sorted(out.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if len(g.Required)+len(g.Preferred)+len(g.Forbidden)+len(g.PreferredAway) == 0 {
		return nil
	}
	return &g
}
