// Package nodeorder prefers nodes as Kubernetes' own scheduler does: those that a
// pod's preferred node affinity matches and without taints that ask to be avoided,
// that other pods suit, that have its images already, and, with weights, those that are
// emptier, fuller or more evenly full.
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
	// Near is about preferred pod affinity, Spread about soft topology spread.
	Near, Spread int64
	// Images is about the images of a pod's containers that a node has already.
	Images int64
}

// PeerWeights says how much what pods prefer about others counts.
func (p Plugin) PeerWeights() snapshot.PeerWeights {
	return snapshot.PeerWeights{Near: p.Near, Spread: p.Spread}
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "nodeorder" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// WantsImages reports whether it matters which images nodes have.
func (p Plugin) WantsImages() bool { return p.Images > 0 }

// Open adds what depends on what is free, and on what other nodes have, where a weight
// asks for it.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	images := imaging{Plugin: p}
	if p.Images > 0 {
		images.spread = spreadOf(s.Snapshot)
	}
	if p.Emptier == 0 && p.Fuller == 0 && p.EvenlyBalanced == 0 {
		return images
	}
	c := cycle{imaging: images}
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
	imaging
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
