package cache

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apart is a pod that wants no pod near that has a label.
func apart(name, key string) *corev1.Pod {
	p := pod(name, "", "1")
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{key: "v"}},
	}}}}
	return p
}

// TestNamesThatUsersChooseCostNoLookAtAllPods: a pod whose selector names a label that no
// selector named before is taken in without a look at each pod, which would stop
// everything while somebody makes thousands of them.
func TestNamesThatUsersChooseCostNoLookAtAllPods(t *testing.T) {
	c := New()
	c.SetNode(node("n", "64"))
	for i := range 3000 {
		p := bound(pod(fmt.Sprintf("p%d", i), "", "1"), "n", "", 0, 0)
		p.Labels = map[string]string{"app": "x"}
		c.SetPod(p)
	}
	next := 0
	if got := testing.AllocsPerRun(20, func() {
		c.SetPod(apart(fmt.Sprintf("a%d", next), fmt.Sprintf("key%d", next)))
		next++
	}); got > 1000 {
		t.Errorf("a pod with a selector of a new label is taken in with %.0f allocations", got)
	}
	before := c.Snapshot(start).Gang("pod/ns/p7/uid-p7")
	c.SetPod(apart("last", "another"))
	if c.Snapshot(start).Gang("pod/ns/p7/uid-p7") != before {
		t.Error("a pod is compiled again for a label that it does not have")
	}
	c.SetPod(apart("app", "app"))
	if now := c.Snapshot(start).Gang("pod/ns/p7/uid-p7"); now == before || now.Pods[0].Class.Labels["app"] != unnamed {
		t.Error("a pod is not told apart by a label that it has")
	}
	if found := c.Snapshot(start).Audit(); len(found) > 0 {
		t.Error(found)
	}
}

// TestBudgetsAreThoseOfTheNamespace also when they come, change and go after the pods.
func TestBudgetsAreThoseOfTheNamespace(t *testing.T) {
	c := New()
	p := pod("p", "", "1")
	p.Labels = map[string]string{"app": "x"}
	c.SetPod(p)
	budget := func(namespace, name, app string) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}}
	}
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "[] 0"},
		{func() { c.SetBudget(budget("ns", "b", "x")); c.SetBudget(budget("other", "b", "x")) }, "[ns/b] 2"},
		{func() { c.SetBudget(budget("ns", "a", "x")) }, "[ns/a ns/b] 3"},
		{func() { c.SetBudget(budget("ns", "b", "y")) }, "[ns/a] 3"},
		{func() { c.DeleteBudget(budget("ns", "a", "x")); c.DeleteBudget(budget("other", "b", "x")) }, "[] 1"},
	} {
		step.do()
		s := c.Snapshot(start)
		if got := fmt.Sprint(s.Gang("pod/ns/p/uid-p").Pods[0].Budgets, len(s.Budgets)); got != step.want {
			t.Errorf("budgets are %s, want %s", got, step.want)
		}
	}
}
