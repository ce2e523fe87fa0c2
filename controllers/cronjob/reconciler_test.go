package cronjob_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/cronjob"
)

var plane *controllertest.Plane

func TestMain(m *testing.M) { os.Exit(controllertest.Main(m, &plane)) }

// On a real API server, with a clock that is set forward: Jobs come at their
// times, one each, also when the controller is started again, and the history is
// kept short.
func TestCronJob(t *testing.T) {
	ns := plane.Namespace(t)
	var offset atomic.Int64
	cj := &batch.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nightly"}, Spec: batch.CronJobSpec{
		Schedule: "0 * * * *", TimeZone: ptr.To("Europe/Berlin"), SuccessfulJobsHistoryLimit: ptr.To[int32](1),
		JobTemplate: batch.JobTemplateSpec{Spec: batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "w", Replicas: 1, Template: corev1.PodTemplateSpec{
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}}}},
	}}
	if err := plane.Client.Create(t.Context(), cj); err != nil {
		t.Fatal(err)
	}
	start := func() (stop func()) {
		return plane.Run(t, ctrl.Options{}, func(ctx context.Context, mgr ctrl.Manager) error {
			r := &cronjob.Reconciler{Client: mgr.GetClient(), Events: mgr.GetEventRecorder(cronjob.Name),
				Now: func() time.Time { return cj.CreationTimestamp.Add(time.Duration(offset.Load())) }}
			return r.SetupWithManager(ctx, mgr)
		})
	}
	jobs := func(ctx context.Context) []batch.Job {
		var list batch.JobList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			t.Log(err)
		}
		return list.Items
	}
	for round := range 3 {
		offset.Add(int64(time.Hour))
		stop := start()
		controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
			got := &batch.CronJob{}
			if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(cj), got); err != nil {
				return err.Error()
			}
			have := jobs(ctx)
			if len(have) != min(round+1, 2) || len(got.Status.Active) != 1 || got.Status.LastScheduleTime == nil || got.Status.Active[0].UID == "" {
				return fmt.Sprintf("round %d: %d jobs, status %+v", round, len(have), got.Status)
			}
			return ""
		})
		stop()
		for _, j := range jobs(t.Context()) {
			if j.Status.State.Phase == batch.Completed {
				continue
			}
			done := j.DeepCopy()
			done.Status.State = batch.JobState{Phase: batch.Completed, LastTransitionTime: metav1.Now()}
			if err := plane.Client.Status().Patch(t.Context(), done, client.MergeFrom(&j)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
