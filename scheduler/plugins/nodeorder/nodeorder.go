// Package nodeorder prefers nodes as Kubernetes' own scheduler does: those that a
// pod's preferred node affinity matches and without taints that ask to be avoided,
// and, with weights, those that are emptier, fuller or more evenly full.
package nodeorder

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin scores nodes. Its fields are weights; 0 leaves one out.
type Plugin struct {
	NodeAffinity, Taints            int64
	Emptier, Fuller, EvenlyBalanced int64
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "nodeorder" }

// Open adds what depends on what is free, where a weight asks for it.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if p.Emptier == 0 && p.Fuller == 0 && p.EvenlyBalanced == 0 {
		return p
	}
	c := cycle{Plugin: p}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if d, ok := s.Snapshot.Dims.Index(string(name)); ok {
			c.dims = append(c.dims, d)
		}
	}
	return c
}

// Score adds up the preferred node affinity and takes off for each taint that is
// to be avoided and not tolerated.
func (p Plugin) Score(c *snapshot.Class, n *snapshot.Node) int64 {
	score := resource.Mul(c.Preference(n), p.NodeAffinity)
	for i := range n.Taints {
		if n.Taints[i].Effect == corev1.TaintEffectPreferNoSchedule && !c.Tolerates(&n.Taints[i]) {
			score -= fill.Most * p.Taints
		}
	}
	return score
}

// cycle is the plugin in one cycle, with the dimensions of processors and memory.
type cycle struct {
	Plugin
	dims []int
}

// JudgeRoom scores how full processors and memory become.
func (c cycle) JudgeRoom(class *snapshot.Class, n *snapshot.Node, free func(dim int) int64) (int64, string) {
	full := make([]int64, 0, 2)
	var mean fill.Weighted
	for _, d := range c.dims {
		if n.Total[d] > 0 {
			f := fill.Full(free(d), n.Total[d], class.Request[d])
			full = append(full, f)
			mean.Add(f, 1)
		}
	}
	return (fill.Most-mean.Mean())*c.Emptier + mean.Mean()*c.Fuller + fill.Balance(full...)*c.EvenlyBalanced, ""
}
