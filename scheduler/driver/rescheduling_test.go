package driver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestRescheduling: of two gangs that fill a node one goes by the Eviction API, and its
// successor is bound to the node that was empty.
func TestRescheduling(t *testing.T) {
	ns := plane.Namespace(t)
	c, warnings, err := config.Parse([]byte(`
actions: "enqueue, allocate, shuffle"
tiers:
- plugins:
  - {name: gang}
  - {name: proportion}
  - name: rescheduling
    arguments:
      strategies:
      - name: lowNodeUtilization
        params: {thresholds: {nvidia.com/gpu: 20}, targetThresholds: {nvidia.com/gpu: 60}}
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	full, empty := ns+"-full", ns+"-empty"
	realNode(t, ns, full)
	realNode(t, ns, empty)
	yields := map[string]string{volcanov1.PodPreemptable: "true"}
	for _, name := range []string{"a", "b"} {
		podGroup(t, ns, name, volcanov1.PodGroupRunning)
		jobPod(t, ns, name, 2, yields, full)
		for _, p := range eventuallyBound(t, ns, name, 1) {
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &metav1.Time{Time: time.Now().Add(-time.Hour)}
			if err := plane.Client.Status().Update(t.Context(), &p); err != nil {
				t.Fatal(err)
			}
		}
	}
	startWith(t, &wire{}, c.Pipeline(), "")
	moved := eventuallyMoved(t, ns)
	finish(t, ns, moved)
	jobPod(t, ns, moved, 2, yields, "")
	for _, p := range eventuallyBound(t, ns, moved, 1) {
		if p.Spec.NodeName != empty {
			t.Errorf("gang %s was moved to %s, want %s", moved, p.Spec.NodeName, empty)
		}
	}
	other := map[string]string{"a": "b", "b": "a"}[moved]
	var p corev1.Pod
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: other + "-0"}, &p); err != nil || p.DeletionTimestamp != nil || p.Spec.NodeName != full {
		t.Errorf("gang %s is to stay: on %q, going is %t, %v", other, p.Spec.NodeName, p.DeletionTimestamp != nil, err)
	}
}
