package cache

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// strangers are the pods that name a PodGroup and the scheduler of somebody else: a gang
// waits in vain for them.
type strangers struct {
	of  map[string]stranger            // by UID
	per map[string]map[string]stranger // by key of the gang and UID
}

// stranger is the gang that a pod names, and the scheduler that it does.
type stranger struct{ gang, scheduler string }

// strangerOf reads a pod that is not ours; ok is false where it names no PodGroup, or is over.
func strangerOf(p *corev1.Pod) (s stranger, ok bool) {
	group := firstOf(p.Annotations[wellknown.PodGroupName], p.Annotations[volcanov1.VolcanoGroupNameAnnotationKey])
	switch {
	case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed:
		return s, false
	case group != "":
		return stranger{groupKey(p.Namespace, group), p.Spec.SchedulerName}, true
	case p.Spec.SchedulingGroup != nil && p.Spec.SchedulingGroup.PodGroupName != nil:
		return stranger{nativeKey(p.Namespace, *p.Spec.SchedulingGroup.PodGroupName), p.Spec.SchedulerName}, true
	}
	return s, false
}

// noteStranger takes in a pod that is not ours. The caller holds the lock.
func (c *Cache) noteStranger(p *corev1.Pod) {
	uid := string(p.UID)
	s, ok := strangerOf(p)
	if was, known := c.strangers.of[uid]; known && (!ok || was != s) {
		c.forgetStranger(uid)
	} else if known {
		return
	}
	if !ok {
		return
	}
	if c.strangers.of == nil {
		c.strangers.of, c.strangers.per = map[string]stranger{}, map[string]map[string]stranger{}
	}
	if c.strangers.per[s.gang] == nil {
		c.strangers.per[s.gang] = map[string]stranger{}
	}
	c.strangers.of[uid], c.strangers.per[s.gang][uid] = s, s
	c.estrange(s.gang)
}

// forgetStranger forgets a pod, if it is one of them. The caller holds the lock.
func (c *Cache) forgetStranger(uid string) {
	s, known := c.strangers.of[uid]
	if !known {
		return
	}
	delete(c.strangers.of, uid)
	if delete(c.strangers.per[s.gang], uid); len(c.strangers.per[s.gang]) == 0 {
		delete(c.strangers.per, s.gang)
	}
	c.estrange(s.gang)
}

// estrange has a gang say anew how many pods of it are not ours. That alone is no reason for
// a cycle.
func (c *Cache) estrange(gang string) {
	if g := c.gangs[gang]; g != nil {
		g.snap = nil
	}
}

// strangersOf counts the pods that name a gang by their schedulers, in order of these.
func (c *Cache) strangersOf(gang string) (out []snapshot.Strangers) {
	for _, s := range c.strangers.per[gang] {
		i, found := slices.BinarySearchFunc(out, s.scheduler, func(o snapshot.Strangers, name string) int { return strings.Compare(o.Scheduler, name) })
		if !found {
			out = slices.Insert(out, i, snapshot.Strangers{Scheduler: s.scheduler})
		}
		out[i].Pods++
	}
	return out
}
