package job_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/job"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
)

// plane is the control plane that all tests of this package share.
var plane *controllertest.Plane

const patience = time.Minute

func TestMain(m *testing.M) {
	os.Exit(controllertest.Main(m, &plane, (*controllertest.Plane).StartGarbageCollector))
}

// startController runs the controller for one namespace; the returned function
// stops it and waits until nothing of it runs any more.
func startController(t testing.TB, namespace string) (stop func()) {
	t.Helper()
	return startOn(t, plane, namespace, plugins.Set{env.Factory(), svc.Factory()})
}

// startOn is startController by the way of a plane, with job plugins.
func startOn(t testing.TB, by *controllertest.Plane, namespace string, known plugins.Set) (stop func()) {
	t.Helper()
	return by.Run(t, ctrl.Options{
		Cache:  cache.Options{DefaultTransform: cache.TransformStripManagedFields(), DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: job.Uncached()}},
	}, func(ctx context.Context, mgr ctrl.Manager) error {
		r := &job.Reconciler{
			Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(job.Name),
			Plugins: known, Now: time.Now, Workers: 4,
		}
		return r.SetupWithManager(ctx, mgr)
	})
}

// newJob is a job of one task "w" that says hello.
func newJob(namespace, name string, replicas int32) *batch.Job {
	return &batch.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "w", Replicas: replicas, Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox", Command: []string{"/bin/sh", "-c", "echo hello"}}}}}}}},
	}
}

func create(t testing.TB, o client.Object) {
	t.Helper()
	if err := plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %s: %v", o.GetName(), err)
	}
}

// waitPhase waits until the job is in the phase and returns it.
func waitPhase(t testing.TB, j *batch.Job, phase batch.JobPhase) *batch.Job {
	t.Helper()
	got := &batch.Job{}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
			return err.Error()
		}
		if got.Status.State.Phase != phase {
			return fmt.Sprintf("job %s is %+v, not %s", j.Name, got.Status, phase)
		}
		return ""
	})
	return got
}

func podsOf(ctx context.Context, t testing.TB, namespace string) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := plane.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		if ctx.Err() == nil {
			t.Errorf("list pods: %v", err)
		}
		return nil
	}
	return list.Items
}

func podGroupOf(ctx context.Context, j *batch.Job) (*scheduling.PodGroup, error) {
	pg := &scheduling.PodGroup{}
	err := plane.Client.Get(ctx, client.ObjectKey{Namespace: j.Namespace, Name: j.Name + "-" + string(j.UID)}, pg)
	return pg, err
}
