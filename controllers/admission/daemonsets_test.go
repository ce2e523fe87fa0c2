package admission_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// daemonsOf is a DaemonSet with more in its pods' spec.
func daemonsOf(t *testing.T, pod string) *appsv1.DaemonSet {
	t.Helper()
	d := &appsv1.DaemonSet{}
	if err := yaml.UnmarshalStrict([]byte(`{metadata: {name: daemons, namespace: default}, spec: {selector: {matchLabels: {a: b}},
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}], `+pod+`}}}}`), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDaemonSets: one that tolerates virtual nodes leaves them out and nothing else,
// whatever its affinity said before; others are as they were.
func TestDaemonSets(t *testing.T) {
	const all = "tolerations: [{operator: Exists}]"
	required := func(terms string) string {
		return all + ", affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: " + terms + "}}}"
	}
	// What is there before the policy has come to the API server's mind is not its.
	ctx := t.Context()
	made := func(d *appsv1.DaemonSet) *appsv1.DaemonSet {
		t.Helper()
		if err := plane.Client.Create(ctx, d, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		return d
	}
	end := time.Now().Add(patience)
	for made(daemonsOf(t, all)).Spec.Template.Spec.Affinity == nil {
		if time.Now().After(end) {
			t.Fatal("the policy is not enforced")
		}
		<-time.After(100 * time.Millisecond)
	}
	virtual := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "hpc", Labels: map[string]string{wellknown.VirtualNode: "true", "disk": "ssd"}}}
	ordinary := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker", Labels: map[string]string{"disk": "ssd"}}}
	kept := made(daemonsOf(t, all+", affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: t}}]}}"))
	if kept.Spec.Template.Spec.Affinity.PodAntiAffinity == nil {
		t.Errorf("the affinity of pods is gone: %s", text(t, kept.Spec.Template.Spec.Affinity))
	}
	for _, tc := range []struct {
		name, pod         string
		annotated         bool
		virtual, ordinary bool // whether a pod fits there
		unchanged         bool
	}{
		{name: "no affinity", pod: all, ordinary: true},
		{name: "the taint by name", pod: "tolerations: [{key: isthmus.sh/virtual-node, operator: Exists}]", ordinary: true},
		{name: "affinity of pods", pod: all + ", affinity: {podAntiAffinity: {}}", ordinary: true},
		{name: "preferred nodes", pod: all + ", affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, preference: {matchExpressions: [{key: disk, operator: Exists}]}}]}}", ordinary: true},
		{name: "two terms", pod: required("[{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}, {matchExpressions: [{key: disk, operator: Exists}]}]"), ordinary: true},
		{name: "a term of other nodes", pod: required("[{matchExpressions: [{key: disk, operator: In, values: [tape]}]}]")},
		{name: "a term of fields", pod: required("[{matchFields: [{key: metadata.name, operator: NotIn, values: [x]}]}]"), ordinary: true},
		{name: "it says so itself", pod: required("[{matchExpressions: [{key: isthmus.sh/virtual-node, operator: DoesNotExist}]}]"), ordinary: true, unchanged: true},
		{name: "it wants virtual nodes", pod: required("[{matchExpressions: [{key: isthmus.sh/virtual-node, operator: Exists}]}]"), virtual: true, unchanged: true},
		{name: "an empty term", pod: required("[{}]"), unchanged: true},
		{name: "it tolerates others", pod: "tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]", virtual: true, ordinary: true, unchanged: true},
		{name: "told to leave it", pod: all, annotated: true, virtual: true, ordinary: true, unchanged: true},
	} {
		given := daemonsOf(t, tc.pod)
		if tc.annotated {
			given.Annotations = map[string]string{"isthmus.sh/leave-affinity": "true"}
		}
		got := made(given.DeepCopy())
		for node, want := range map[*corev1.Node]bool{virtual: tc.virtual, ordinary: tc.ordinary} {
			fits, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: got.Spec.Template.Spec}).Match(node)
			if err != nil || fits != want {
				t.Errorf("%s: a pod fits on %s: %t, %v, want %t; %s", tc.name, node.Name, fits, err, want, text(t, got.Spec.Template.Spec.Affinity))
			}
		}
		before, after := text(t, given.Spec.Template.Spec.Affinity), text(t, got.Spec.Template.Spec.Affinity)
		if (before == after) != tc.unchanged {
			t.Errorf("%s: the affinity was %s and is %s", tc.name, before, after)
		}
	}

	// One that was there before is left alone until its pods change.
	old := daemonsOf(t, all)
	old.Annotations = map[string]string{"isthmus.sh/leave-affinity": "true"}
	if err := plane.Client.Create(ctx, old); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plane.Client.Delete(ctx, old) }) // nothing of it runs
	old.Annotations = nil
	if err := plane.Client.Update(ctx, old); err != nil || old.Spec.Template.Spec.Affinity != nil || old.Generation != 1 {
		t.Errorf("after a change of something else: generation %d, %s, %v", old.Generation, text(t, old.Spec.Template.Spec.Affinity), err)
	}
	old.Spec.Template.Spec.Containers[0].Image = "j"
	if err := plane.Client.Update(ctx, old); err != nil || old.Spec.Template.Spec.Affinity == nil {
		t.Errorf("after a change of its pods: %s, %v", text(t, old.Spec.Template.Spec.Affinity), err)
	}
}

func text(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(fmt.Errorf("write %T: %w", v, err))
	}
	return string(raw)
}
