package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batchv1 "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	busv1 "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// realNode makes a ready node of 4 GPUs that only pods of the namespace tolerate.
func realNode(t *testing.T, ns, name string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	create(t, n)
	n.Status.Allocatable = corev1.ResourceList{"cpu": kresource.MustParse("16"), "pods": kresource.MustParse("100"), "nvidia.com/gpu": kresource.MustParse("4")}
	n.Status.Capacity = n.Status.Allocatable
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = []corev1.Taint{{Key: ns, Effect: corev1.TaintEffectNoSchedule}}
	if err := plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// jobOf returns the Job of a gang, which it makes the first time: one that does nothing
// of its own when a pod is evicted.
func jobOf(t *testing.T, ns, name string) *batchv1.Job {
	t.Helper()
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: batchv1.JobSpec{
			Policies: []batchv1.LifecyclePolicy{{Event: busv1.PodFailedEvent, Action: busv1.RestartJobAction}},
			Tasks:    []batchv1.TaskSpec{{Name: "w", Replicas: 1, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}}}}},
		},
	}
	switch err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(j), j); {
	case apierrors.IsNotFound(err):
		create(t, j)
	case err != nil:
		t.Fatal(err)
	}
	return j
}

// jobPod makes the only pod of a gang, as a Job's controller would, or makes it anew.
func jobPod(t *testing.T, ns, group string, gpus int64, annotations map[string]string, on string) {
	t.Helper()
	amount := *kresource.NewQuantity(gpus, kresource.DecimalSI)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ns, Name: group + "-0", Annotations: map[string]string{wellknown.PodGroupName: group, "volcano.sh/task-spec": "w", "volcano.sh/task-index": "0"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Name: group, UID: jobOf(t, ns, group).UID, Controller: ptr.To(true)}},
		},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerVolcano, NodeName: on, Tolerations: []corev1.Toleration{{Key: ns, Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{"cpu": kresource.MustParse("1"), "nvidia.com/gpu": amount}, Limits: corev1.ResourceList{"nvidia.com/gpu": amount},
			}}},
		},
	}
	for k, v := range annotations {
		p.Annotations[k] = v
	}
	create(t, p)
}

// podGroup makes a PodGroup of one member.
func podGroup(t *testing.T, ns, name string, phase volcanov1.PodGroupPhase) {
	t.Helper()
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       volcanov1.PodGroupSpec{MinMember: 1, Queue: "default"}, Status: volcanov1.PodGroupStatus{Phase: phase},
	})
}

// fragments fills half of each of two nodes with a gang that may be moved, and makes
// one that needs a whole node.
func fragments(t *testing.T, ns string) {
	t.Helper()
	for i, name := range []string{"a", "b"} {
		node := fmt.Sprintf("%s-n%d", ns, i)
		realNode(t, ns, node)
		podGroup(t, ns, name, volcanov1.PodGroupRunning)
		jobPod(t, ns, name, 2, map[string]string{volcanov1.PodPreemptable: "true"}, node)
		setPhase(t, eventuallyBound(t, ns, name, 1), corev1.PodRunning)
	}
	podGroup(t, ns, "wide", volcanov1.PodGroupInqueue)
	jobPod(t, ns, "wide", 4, nil, "")
}

// eventuallyMoved waits until one of the gangs a and b goes away, and returns which.
func eventuallyMoved(t *testing.T, ns string) (name string) {
	t.Helper()
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		var all corev1.PodList
		if err := plane.Client.List(ctx, &all, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		for _, p := range all.Items {
			if p.DeletionTimestamp != nil {
				name = p.Annotations[wellknown.PodGroupName]
				return ""
			}
		}
		return fmt.Sprintf("none of %d pods goes away", len(all.Items))
	})
	return name
}

func consolidating(t *testing.T) config.Config {
	t.Helper()
	c, warnings, err := config.Parse([]byte(`
actions: "enqueue, allocate, consolidate"
tiers:
- plugins: [{name: priority}, {name: gang}, {name: proportion}]
configurations:
- {name: consolidate, arguments: {minimumRunTime: 1ms}}
`))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return c
}

// TestConsolidation moves a gang so that another has a whole node: both places are
// written down, the moved pod goes by the Eviction API, and its successor has its
// place, also where another scheduler finds what was begun, the successor, and somebody
// else who came in between.
func TestConsolidation(t *testing.T) {
	ns := plane.Namespace(t)
	stop := startWith(t, &wire{}, consolidating(t).Pipeline(), "")
	fragments(t, ns)
	moved := eventuallyMoved(t, ns)
	for _, name := range []string{moved, "wide"} {
		var pg volcanov1.PodGroup
		var n snapshot.Nomination
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &pg); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(pg.Annotations[wellknown.Nomination]), &n); err != nil || len(n.Pods) != 1 || (n.Pods[0].Name != "") != (name == moved) {
			t.Errorf("the nomination of %s is %q: %v", name, pg.Annotations[wellknown.Nomination], err)
		}
	}
	stop()
	finish(t, ns, moved)
	podGroup(t, ns, "late", volcanov1.PodGroupInqueue)
	jobPod(t, ns, "late", 2, nil, "")
	jobPod(t, ns, moved, 2, map[string]string{volcanov1.PodPreemptable: "true"}, "") // none would be nobody's word
	startWith(t, &wire{}, consolidating(t).Pipeline(), "")
	eventuallyBound(t, ns, "wide", 1)
	eventuallyBound(t, ns, moved, 1)
	if pods, err := podsOf(t.Context(), ns, "late"); err != nil || len(pods) != 1 || pods[0].Spec.NodeName != "" {
		t.Errorf("somebody else has a place that was kept: %v, %v", pods, err)
	}
}
