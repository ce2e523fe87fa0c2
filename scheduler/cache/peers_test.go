package cache

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestLabelsCountOnlyWhereSelected: pods that differ in labels are of one class
// until a selector tells them apart by the label.
func TestLabelsCountOnlyWhereSelected(t *testing.T) {
	c := New()
	for _, name := range []string{"p0", "p1"} {
		p := pod(name, "g", "1")
		p.Labels = map[string]string{"index": name, "app": "x"}
		c.SetPod(p)
	}
	classes := func() int {
		t.Helper()
		seen := map[string]bool{}
		for _, p := range gangOf(t, c, "podgroup/ns/g").Pods {
			seen[p.Class.Key] = true
		}
		return len(seen)
	}
	if n := classes(); n != 1 {
		t.Fatalf("%d classes before anything selects", n)
	}
	other := pod("other", "", "1")
	other.Spec.SchedulerName = "default-scheduler"
	other.Spec.NodeName = "n"
	other.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
		{TopologyKey: "host", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}}}
	c.SetPod(other)
	if n := classes(); n != 1 {
		t.Fatalf("%d classes when only app is selected", n)
	}
	late := pod("late", "", "1")
	late.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
		LabelSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "index", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"p0"}}}}, MatchLabelKeys: []string{"version"}}}
	late.Labels = map[string]string{"version": "7"}
	c.SetPod(late)
	if n := classes(); n != 2 {
		t.Fatalf("%d classes when the index is selected", n)
	}
	spread := gangOf(t, c, "pod/ns/late/uid-late").Pods[0].Class.Peers.Spread[0]
	if len(spread.Selector.MatchExpressions) != 2 || spread.Selector.MatchExpressions[1].Values[0] != "7" || !spread.Hard {
		t.Fatalf("the spread %+v lacks the pod's own version", spread)
	}
	if found := c.Snapshot(start).Audit(); len(found) > 0 {
		t.Fatal(found)
	}
}

func TestNamespacesOfTerms(t *testing.T) {
	p := pod("p", "", "1")
	term := func(sel *metav1.LabelSelector, names ...string) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{TopologyKey: "k", NamespaceSelector: sel, Namespaces: names}
	}
	for name, c := range map[string]struct {
		term  corev1.PodAffinityTerm
		names []string
		all   bool
		label string
	}{
		"own":      {term: term(nil), names: []string{"ns"}},
		"listed":   {term: term(nil, "b", "a"), names: []string{"a", "b"}},
		"every":    {term: term(&metav1.LabelSelector{}), all: true},
		"by name":  {term: term(&metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "x"}}, "a"), names: []string{"a", "x"}},
		"by label": {term: term(&metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}, "a"), names: []string{"a"}, label: "x"},
	} {
		got := peerTerm(p, c.term)
		label := ""
		if got.Spaces != nil {
			label = got.Spaces.MatchLabels["team"]
		}
		if got.All != c.all || !slices.Equal(got.Namespaces, c.names) || label != c.label {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
