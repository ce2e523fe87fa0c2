// Package predicates rules out nodes by what Kubernetes itself would: node
// selector and required affinity, taints and tolerations, cordoning, readiness and
// the volumes that can be had there. Selectors, affinity and tolerations are matched
// by Kubernetes' own library; the rest is written here after it.
package predicates

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin filters nodes. It holds no state.
type Plugin struct {
	// AnyLabels has node selectors and required node affinity not looked at, AnyTaints
	// taints but for that of a batch system that does not answer. A kubelet refuses a
	// pod whose node does not match, so this is for clusters in which none asks for it.
	AnyLabels, AnyTaints bool
	// Overlooked is what is not looked at when pods are placed.
	Overlooked snapshot.Overlooked
}

// Overlooks says what is not looked at when pods are placed.
func (p Plugin) Overlooks() snapshot.Overlooked { return p.Overlooked }

// Open has the volumes that pods claim looked at as well, as far as a pod alone is
// concerned: what others take of them meanwhile is seen to when it is placed. Behind
// a virtual node the batch system serves volumes.
func (p Plugin) Open(s *framework.Session) framework.Plugin {
	if s.Snapshot.Claims == nil {
		return p
	}
	return claiming{p, s.Txn}
}

// claiming is the plugin in one cycle in which pods have claims.
type claiming struct {
	Plugin
	txn *snapshot.Txn
}

// Filter is as that of Plugin.
func (p claiming) Filter(c *snapshot.Class, n *snapshot.Node) string {
	if why := p.Plugin.Filter(c, n); why != "" || n.Virtual {
		return why
	}
	return p.txn.VolumeReason(n, c, p.Overlooked.Claims)
}

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "predicates" }

// JudgesKin says that classes of one Kin have the same nodes.
func (Plugin) JudgesKin() {}

// Lasts says that what the plugin says of a node holds while the node is the same.
func (p Plugin) Lasts() any { return p }

// Filter returns why a class may not go to a node, "" when it may.
//
// A pod of ours tolerates the taint of virtual nodes without saying so, unless a
// DaemonSet owns it: the taint is there to keep pods of other schedulers, and
// one pod a node, away.
func (p Plugin) Filter(c *snapshot.Class, n *snapshot.Node) string {
	switch {
	case n.Broken != "" && n.Virtual:
		return "its host shapes are invalid"
	case n.Broken != "" && c.AsksGPUs():
		return "its description of its GPUs is invalid"
	case !n.Ready:
		return "not ready"
	case !p.AnyLabels && !c.Selects(n):
		return "does not match the node selector or affinity"
	case n.Virtual && c.ClaimsDevices():
		return "resource claims are not served there"
	}
	if n.Unschedulable && !c.Tolerates(&corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}) {
		return "cordoned"
	}
	for i := range n.Taints {
		t := &n.Taints[i]
		if t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if p.AnyTaints && t.Key != wellknown.TaintUnreachable || t.Key == wellknown.TaintVirtualNode && !c.DaemonSet || c.Tolerates(t) {
			continue
		}
		if t.Key == wellknown.TaintUnreachable {
			return "its batch system does not answer"
		}
		return "taint " + t.Key + " is not tolerated"
	}
	return ""
}
