package job_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// A job whose queue extends to other clusters, and its claims: one that is there and
// one that is made for it. Both are on record.
func TestForwardingAndClaims(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	q := &scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: ns + "-wide"}, Spec: scheduling.QueueSpec{Weight: 1, ExtendClusters: []scheduling.Cluster{{Name: "other"}}},
		Status: scheduling.QueueStatus{Allocated: corev1.ResourceList{}}}
	create(t, q)
	t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), q) })
	claim := corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": mustParse("1Gi")}}}
	create(t, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "data"}, Spec: claim})
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "wide", 1)
	j.Spec.Queue = q.Name
	j.Spec.Volumes = []batch.VolumeSpec{{MountPath: "/data", VolumeClaimName: "data"}, {MountPath: "/scratch", VolumeClaim: &claim}}
	create(t, j)
	got := waitPhase(t, j, batch.Running)
	own := fmt.Sprintf("wide-pvc-1-%.8s", j.UID)
	for _, name := range []string{"data", own} {
		if got.Status.ControlledResources["volume-pvc-"+name] != name {
			t.Errorf("controlledResources %v lack %s", got.Status.ControlledResources, name)
		}
		pvc := &corev1.PersistentVolumeClaim{}
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, pvc); err != nil || metav1.IsControlledBy(pvc, j) != (name == own) {
			t.Errorf("claim %s: %v, owners %v", name, err, pvc.OwnerReferences)
		}
	}
	pg, err := podGroupOf(t.Context(), j)
	if err != nil {
		t.Fatal(err)
	}
	pod := podsOf(t.Context(), t, ns)[0]
	if pod.Labels[batch.JobForwardingKey] != "true" || pod.Annotations[batch.JobForwardingKey] != "true" || pg.Annotations[batch.JobForwardingKey] != "true" {
		t.Errorf("pod %v %v, PodGroup %v", pod.Labels, pod.Annotations, pg.Annotations)
	}
	if got.Annotations[batch.JobForwardingKey] != "" {
		t.Errorf("the job itself was changed: %v", got.Annotations)
	}
}
