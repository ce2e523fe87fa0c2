package cache

import (
	"strconv"

	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

type priorityClass struct {
	value     int32
	isDefault bool
}

// SetPriorityClass takes in a priority class.
func (c *Cache) SetPriorityClass(p *schedulingv1.PriorityClass) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.priorities[p.Name] = priorityClass{p.Value, p.GlobalDefault}
	c.touchGangs()
}

// DeletePriorityClass forgets a priority class.
func (c *Cache) DeletePriorityClass(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.priorities, name)
	c.touchGangs()
}

// touchGangs marks all gangs: priority classes change rarely.
func (c *Cache) touchGangs() {
	for _, g := range c.gangs {
		g.snap = nil
	}
	c.signal()
}

// priorityOf is the priority of a PodGroup of either kind. The API server gives one of
// Kubernetes' own kind that names no class the priority that pods without one have: it
// says nothing then, and the pods, which may have classes, do.
func (c *Cache) priorityOf(g *groupSpec, ofPods int32, hasPods bool) int32 {
	named := g.priorityClass != "" && !c.priorities[g.priorityClass].isDefault
	switch {
	case g.nativePriority == nil:
		return c.priority(g.priorityClass, ofPods, hasPods)
	case named || !hasPods:
		return *g.nativePriority
	}
	return ofPods
}

// priority resolves a PodGroup's class; without one its pods' priority counts,
// which the API server has resolved, and before there are pods the default.
func (c *Cache) priority(class string, ofPods int32, hasPods bool) int32 {
	if p, ok := c.priorities[class]; ok && class != "" {
		return p.value
	}
	if hasPods || class != "" {
		return ofPods
	}
	for _, p := range c.priorities {
		if p.isDefault {
			return p.value
		}
	}
	return 0
}

// podPriority is a pod's own within its gang: Volcano's annotation counts for
// more than the pod's priority.
func podPriority(annotations map[string]string, priority *int32) int32 {
	if text := annotations[wellknown.TaskPriority]; text != "" {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil {
			return int32(n)
		}
	}
	if priority != nil {
		return *priority
	}
	return 0
}
