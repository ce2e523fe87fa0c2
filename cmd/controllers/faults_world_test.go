package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
)

// more makes a Job that is told to restart, a JobFlow whose Jobs go at its end, and a
// CronJob that has to put a Job in the place of one that runs: of an earlier minute,
// so that nobody waits for the next.
func (w *world) more(t *testing.T, tasks []batch.TaskSpec) {
	t.Helper()
	create := func(o client.Object) {
		t.Helper()
		if err := w.plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: w.ns, Name: name} }
	told := &batch.Job{ObjectMeta: meta("told"), Spec: batch.JobSpec{Tasks: tasks}}
	create(told)
	create(&bus.Command{ObjectMeta: meta("restart"), Action: string(bus.RestartJobAction),
		TargetObject: metav1.NewControllerRef(told, batch.SchemeGroupVersion.WithKind("Job"))})
	for _, name := range []string{"third", "fourth"} {
		create(&flow.JobTemplate{ObjectMeta: meta(name), Spec: batch.JobSpec{Tasks: tasks}})
	}
	create(&flow.JobFlow{ObjectMeta: meta("g"), Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Delete, Flows: []flow.Flow{
		{Name: "third"}, {Name: "fourth", DependsOn: &flow.DependsOn{Targets: []string{"third"}}}}}})
	swap := &batch.CronJob{ObjectMeta: meta("swap"), Spec: batch.CronJobSpec{Schedule: "@every 1s", ConcurrencyPolicy: batch.ReplaceConcurrent,
		SuccessfulJobsHistoryLimit: ptr.To[int32](1), JobTemplate: batch.JobTemplateSpec{Spec: batch.JobSpec{Tasks: tasks}}}}
	create(swap)
	old := &batch.Job{ObjectMeta: meta("swap-1"), Spec: batch.JobSpec{Tasks: tasks}}
	old.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(swap, batch.SchemeGroupVersion.WithKind("CronJob"))}
	create(old)
}

// lacksMore says what of it is not as it is to be in the end.
func (w *world) lacksMore(ctx context.Context) string {
	get := func(name string, o client.Object) error {
		return w.plane.Client.Get(ctx, client.ObjectKey{Namespace: w.ns, Name: name}, o)
	}
	told, g := &batch.Job{}, &flow.JobFlow{}
	if err := get("told", told); err != nil || told.Status.State.Phase != batch.Completed {
		return fmt.Sprintf("job that is told to restart: %v %+v", err, told.Status)
	}
	if err := get("g", g); err != nil || g.Status.State.Phase != flow.Succeed {
		return fmt.Sprintf("flow whose Jobs go: %v %+v", err, g.Status)
	}
	for _, name := range []string{"g-third", "g-fourth", "swap-1"} {
		if err := get(name, &batch.Job{}); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("job %s, which is to go: %v", name, err)
		}
	}
	var jobs batch.JobList
	if err := w.plane.Client.List(ctx, &jobs, client.InNamespace(w.ns)); err != nil {
		return err.Error()
	}
	var now []string
	for i := range jobs.Items {
		if j := &jobs.Items[i]; strings.HasPrefix(j.Name, "swap-") && j.DeletionTimestamp == nil {
			now = append(now, j.Name)
		}
	}
	if len(now) != 1 {
		return fmt.Sprintf("jobs %v run of a CronJob that replaces, want one", now)
	}
	return ""
}
