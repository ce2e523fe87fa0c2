package cache

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// peersOf reads what a pod says about other pods; of a pod that is not ours only
// what it does not want near counts.
func peersOf(p *corev1.Pod, ours bool) *snapshot.Peers {
	if p.Spec.Affinity == nil && len(p.Spec.TopologySpreadConstraints) == 0 {
		return nil
	}
	out := &snapshot.Peers{}
	if a := p.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		for _, t := range a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			out.Apart = append(out.Apart, peerTerm(p, t))
		}
		for _, t := range a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			if ours {
				out.Prefer = append(out.Prefer, snapshot.WeightedTerm{PeerTerm: peerTerm(p, t.PodAffinityTerm), Weight: -int64(t.Weight)})
			}
		}
	}
	if a := p.Spec.Affinity; a != nil && a.PodAffinity != nil && ours {
		for _, t := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			out.Near = append(out.Near, peerTerm(p, t))
		}
		for _, t := range a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			out.Prefer = append(out.Prefer, snapshot.WeightedTerm{PeerTerm: peerTerm(p, t.PodAffinityTerm), Weight: int64(t.Weight)})
		}
	}
	for _, t := range p.Spec.TopologySpreadConstraints {
		if !ours {
			break
		}
		s := snapshot.SpreadTerm{
			PeerTerm: snapshot.PeerTerm{Key: t.TopologyKey, Selector: withKeys(t.LabelSelector, t.MatchLabelKeys, p.Labels), Namespaces: []string{p.Namespace}},
			MaxSkew:  int64(t.MaxSkew), MinDomains: 1, Hard: t.WhenUnsatisfiable == corev1.DoNotSchedule,
			AllNodes:    t.NodeAffinityPolicy != nil && *t.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
			HonorTaints: t.NodeTaintsPolicy != nil && *t.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if t.MinDomains != nil {
			s.MinDomains = int64(*t.MinDomains)
		}
		out.Spread = append(out.Spread, s)
	}
	if len(out.Near)+len(out.Apart)+len(out.Prefer)+len(out.Spread) == 0 {
		return nil
	}
	return out
}

// peerTerm turns a term around. A selector of namespaces by name alone, which every
// namespace has as a label, names them.
func peerTerm(p *corev1.Pod, t corev1.PodAffinityTerm) snapshot.PeerTerm {
	out := snapshot.PeerTerm{Key: t.TopologyKey, Namespaces: slices.Clone(t.Namespaces)}
	out.Selector = withKeys(t.LabelSelector, t.MatchLabelKeys, p.Labels)
	switch sel := t.NamespaceSelector; {
	case sel == nil && len(out.Namespaces) == 0:
		out.Namespaces = []string{p.Namespace}
	case sel == nil:
	case len(sel.MatchLabels) == 0 && len(sel.MatchExpressions) == 0:
		out.All, out.Namespaces = true, nil
	case len(sel.MatchExpressions) == 0 && len(sel.MatchLabels) == 1 && sel.MatchLabels[corev1.LabelMetadataName] != "":
		out.Namespaces = append(out.Namespaces, sel.MatchLabels[corev1.LabelMetadataName])
	case len(sel.MatchLabels) == 0 && len(sel.MatchExpressions) == 1 && sel.MatchExpressions[0].Key == corev1.LabelMetadataName &&
		sel.MatchExpressions[0].Operator == metav1.LabelSelectorOpIn:
		out.Namespaces = append(out.Namespaces, sel.MatchExpressions[0].Values...)
	default:
		out.Spaces = sel
	}
	slices.Sort(out.Namespaces)
	return out
}

// withKeys adds the pod's own values of keys to a selector, where the API server
// has not done so. A key that the pod does not have is left out, as in Kubernetes.
func withKeys(sel *metav1.LabelSelector, keys []string, of map[string]string) *metav1.LabelSelector {
	if sel == nil || len(keys) == 0 {
		return sel
	}
	sel = sel.DeepCopy()
	for _, k := range keys {
		v, ok := of[k]
		added := slices.ContainsFunc(sel.MatchExpressions, func(r metav1.LabelSelectorRequirement) bool {
			return r.Key == k && r.Operator == metav1.LabelSelectorOpIn && slices.Equal(r.Values, []string{v})
		})
		if ok && !added {
			sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
		}
	}
	return sel
}

// visible gives a pod's class what selectors can see of the pod. Without any selector
// pods that differ in labels alone are of one class.
func (c *Cache) visible(e *podEntry) {
	if !c.sights.none() {
		e.spec.Namespace, e.spec.Labels = c.sights.visible(e.pod.Namespace, e.labels)
	} else if e.class != "" && !c.imaged && !e.pictured && e.spec.Namespace == "" && e.spec.Labels == nil {
		return
	} else {
		e.spec.Namespace, e.spec.Labels = "", nil
	}
	e.pictured = c.imaged
	e.known = c.specs.intern(&e.spec, len(c.pods))
	e.spec, e.class = e.known.spec, e.known.key
}

// learn notes what a pod's selectors can tell apart, and so what the classes are of pods
// that they look at.
func (c *Cache) learn(e *podEntry) {
	c.spaces = c.spaces || usesSpaces(e.spec.Peers)
	c.sights.learn(e.spec.Peers, &c.anew)
}
