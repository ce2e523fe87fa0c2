package jobflow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
)

// On a real API server: nothing is polled. That the pods of the first step are bound
// changes no Job, and the second is made for it all the same, in the queue of the
// namespace as the first; and one that has started stays, also when the first is gone
// before its completion was seen.
func TestEarlyIsWatched(t *testing.T) {
	ns := plane.Namespace(t)
	plane.Run(t, ctrl.Options{}, func(ctx context.Context, mgr ctrl.Manager) error {
		return (&jobflow.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(jobflow.Name), Now: time.Now}).SetupWithManager(ctx, mgr)
	})
	create := func(o client.Object) {
		t.Helper()
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(o client.Object, change func()) {
		t.Helper()
		if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			t.Fatal(err)
		}
		before, ok := o.DeepCopyObject().(client.Object)
		if !ok {
			t.Fatalf("%T is no object", o)
		}
		change()
		if err := plane.Client.Patch(t.Context(), o, client.MergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "early-" + ns, Labels: map[string]string{wellknown.Cluster: "hpc"}}}
	create(node)
	t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), node) })
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}
	patch(namespace, func() {
		metav1.SetMetaDataAnnotation(&namespace.ObjectMeta, scheduling.QueueNameAnnotationKey, "theirs")
	})
	spec := batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "w", Replicas: 1,
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}}}}
	other := *spec.DeepCopy()
	other.Queue = "theirs"
	create(&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "first"}, Spec: spec})
	create(&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "second"}, Spec: other})
	create(&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f", Annotations: map[string]string{wellknown.QueueEarly: "true"}},
		Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Retain, Flows: []flow.Flow{
			{Name: "first"}, {Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}}}}}})
	shows := func(want string) {
		t.Helper()
		controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
			var list batch.JobList
			if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
				return err.Error()
			}
			var jobs []string
			for i := range list.Items {
				jobs = append(jobs, fmt.Sprintf("%s after %q", list.Items[i].Name, list.Items[i].Annotations[wellknown.After]))
			}
			slices.Sort(jobs)
			if got := strings.Join(jobs, ", "); got != want {
				return fmt.Sprintf("jobs %s, want %s", got, want)
			}
			return ""
		})
	}
	podOf := func(step, node string) *corev1.Pod {
		t.Helper()
		job := &batch.Job{}
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "f-" + step}, job); err != nil {
			t.Fatal(err)
		}
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: job.Name + "-w-0", Labels: map[string]string{batch.JobNameKey: job.Name},
			Annotations: map[string]string{wellknown.QueueEarly: "true", batch.JobVersion: "0", batch.JobRetryCountKey: "0", batch.QueueNameKey: "theirs",
				wellknown.GangAttempt: "of-" + step, wellknown.GangSize: "1"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batch.SchemeGroupVersion.WithKind("Job"))}},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}}
		create(p)
		return p
	}
	shows(`f-first after ""`)
	first := podOf("first", "")
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: first.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node.Name}}
	if err := plane.Client.SubResource("binding").Create(t.Context(), first, binding); err != nil {
		t.Fatal(err)
	}
	shows(`f-first after "", f-second after "of-first"`)

	second := podOf("second", node.Name)
	before := second.DeepCopy()
	second.Status.Phase = corev1.PodRunning
	if err := plane.Client.Status().Patch(t.Context(), second, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	shows(`f-first after "", f-second after ""`) // it has started, and waits for nothing
	uid := func() string {
		job := &batch.Job{}
		if err := plane.Client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "f-second"}, job); err != nil {
			t.Fatal(err)
		}
		return string(job.UID)
	}
	was := uid()
	gone := &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "f-first"}}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(gone), gone); err != nil {
		t.Fatal(err)
	}
	deleted := gone.UID
	if err := plane.Client.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(gone), gone); err != nil || gone.UID == deleted {
			return fmt.Sprintf("the first is not made again: %v", err)
		}
		return ""
	})
	if now := uid(); now != was {
		t.Errorf("the second had started, and was taken back: %s, then %s", was, now)
	}
}
