package podgroup_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

const customGroup, customKind = "example.com", "TrainingRun"

// customRun is a new object of a kind that nothing here has heard of.
func customRun(t *testing.T, ns string, annotations map[string]string) *unstructured.Unstructured {
	t.Helper()
	definition := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "trainingruns." + customGroup},
		"spec": map[string]any{
			"group": customGroup, "scope": "Namespaced",
			"names": map[string]any{"kind": customKind, "plural": "trainingruns"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}},
		},
	}}
	create(t, definition)
	var run *unstructured.Unstructured
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		run = &unstructured.Unstructured{Object: map[string]any{"apiVersion": customGroup + "/v1", "kind": customKind}}
		run.SetNamespace(ns)
		run.SetName("run")
		run.SetAnnotations(annotations)
		if err := plane.Client.Create(ctx, run); err != nil {
			return err.Error() // the kind is not served yet
		}
		return ""
	})
	return run
}

// The pods of a custom resource, which is not read, are one gang that its pods speak
// for: what the resource itself says does not count. Their PodGroup belongs to it.
func TestCustomOwner(t *testing.T) {
	startController(t)
	ns := plane.Namespace(t)
	run := customRun(t, ns, map[string]string{
		scheduling.VolcanoGroupMinMemberAnnotationKey: "7", scheduling.QueueNameAnnotationKey: "unread", "volcano.sh/preemptable": "true"})
	member := func(name, minimum string) *corev1.Pod {
		p := podOf(ns, name, nil, "")
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(run, run.GroupVersionKind())}
		p.Annotations = map[string]string{scheduling.VolcanoGroupMinMemberAnnotationKey: minimum, scheduling.QueueNameAnnotationKey: "team"}
		return p
	}
	for i := range 2 {
		create(t, member(fmt.Sprintf("run-%d", i), "2"))
	}
	name := "podgroup-" + string(run.GetUID())
	ofRun := func(n int32) func(*scheduling.PodGroup) string {
		return func(pg *scheduling.PodGroup) string {
			if ref := metav1.GetControllerOf(pg); ref == nil || ref.APIVersion != customGroup+"/v1" || ref.Kind != customKind ||
				ref.Name != "run" || ref.UID != run.GetUID() || ref.BlockOwnerDeletion != nil {
				return fmt.Sprintf("PodGroup %s is of %+v", pg.Name, pg.OwnerReferences)
			}
			if v, has := pg.Annotations["volcano.sh/preemptable"]; has {
				return fmt.Sprintf("PodGroup %s has volcano.sh/preemptable %q of an owner that is not read", pg.Name, v)
			}
			return minimum(n, "team")(pg)
		}
	}
	group(t, ns, name, 2, ofRun(2))

	// The gang grows; the newest pod counts, and among those of a second the first.
	create(t, member("another", "3"))
	group(t, ns, name, 3, ofRun(3))
	var all scheduling.PodGroupList
	if err := plane.Client.List(t.Context(), &all, client.InNamespace(ns)); err != nil || len(all.Items) != 1 {
		t.Errorf("%d PodGroups, %v, want 1", len(all.Items), err)
	}
}
