package job_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
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
	ctrl.SetLogger(logr.Discard())
	var err error
	if plane, err = controllertest.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err = plane.StartGarbageCollector(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		plane.Stop()
		os.Exit(1)
	}
	code := m.Run()
	plane.Stop()
	os.Exit(code)
}

// startController runs the controller for one namespace; the returned function
// stops it and waits until nothing of it runs any more.
func startController(t testing.TB, namespace string) (stop func()) {
	t.Helper()
	mgr, err := ctrl.NewManager(plane.Config, ctrl.Options{
		Scheme:  plane.Scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		Cache: cache.Options{DefaultTransform: cache.TransformStripManagedFields(),
			DefaultNamespaces: map[string]cache.Config{namespace: {}}},
		Client:     client.Options{Cache: &client.CacheOptions{DisableFor: job.Uncached(), EnableReadYourWritesConsistency: ptr.To(true)}},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	})
	if err != nil {
		t.Fatalf("make manager: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &job.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(job.Name),
		Plugins: plugins.Set{env.Factory(), svc.Factory()}, Now: time.Now, Workers: 4,
	}
	if err := r.SetupWithManager(ctx, mgr); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("manager: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
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
