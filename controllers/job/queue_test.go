package job_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// A new job whose queue does not exist, is not open or has others below it says
// so, and runs as soon as the queue takes it. One that runs goes on.
func TestQueueOfJob(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	name := ns + "-q"
	in := func(job, queue string) *batch.Job {
		j := newJob(ns, job, 1)
		j.Spec.Queue = queue
		create(t, j)
		return j
	}
	waits := func(j *batch.Job, reason, message string) {
		t.Helper()
		controllertest.Eventually(t, patience, func(ctx context.Context) string {
			got := &batch.Job{}
			if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
				return err.Error()
			}
			if st := got.Status.State; st.Phase != batch.Pending || st.Reason != reason || !strings.Contains(st.Message, message) {
				return fmt.Sprintf("%s: state %+v, want %s %s", j.Name, st, reason, message)
			}
			if _, err := podGroupOf(ctx, got); err == nil {
				return "a PodGroup was made"
			}
			return ""
		})
	}
	queue := func(name, parent string, state scheduling.QueueState) *scheduling.Queue {
		q := &scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: scheduling.QueueSpec{Weight: 1, Parent: parent},
			Status: scheduling.QueueStatus{State: state, Allocated: corev1.ResourceList{}}}
		create(t, q)
		t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), q) })
		return q
	}
	setState := func(q *scheduling.Queue, state scheduling.QueueState) {
		t.Helper()
		changed := q.DeepCopy()
		changed.Status.State = state
		changed.Status.Allocated = corev1.ResourceList{}
		if err := plane.Client.Status().Patch(t.Context(), changed, client.MergeFrom(q)); err != nil {
			t.Fatal(err)
		}
		*q = *changed
	}

	early := in("early", name)
	waits(early, "QueueNotFound", "spec.queue: Not found: ")
	waits(in("top", "root"), "QueueNotLeaf", "jobs are in queues below it")
	q := queue(name, "", "")
	waitPhase(t, early, batch.Running)
	setState(q, scheduling.QueueStateClosed)
	late := in("late", name)
	waits(late, "QueueNotOpen", "the queue is Closed")
	setState(q, scheduling.QueueStateOpen)
	waitPhase(t, late, batch.Running)
	child := queue(name+"-child", name, "")
	inner := in("inner", name)
	waits(inner, "QueueNotLeaf", child.Name)
	if err := plane.Client.Delete(t.Context(), child); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, inner, batch.Running)
	waitPhase(t, early, batch.Running)
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var list eventsv1.EventList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		told := map[string]bool{}
		for i := range list.Items {
			told[list.Items[i].Regarding.Name+" "+list.Items[i].Reason] = true
		}
		for _, want := range []string{"early QueueNotFound", "late QueueNotOpen", "inner QueueNotLeaf"} {
			if !told[want] {
				return fmt.Sprintf("no event %s among %v", want, told)
			}
		}
		return ""
	})
}

// A job that names no queue is in that of its namespace, as its pods are, and
// stays there when the namespace names another.
func TestQueueOfNamespace(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	queue := &scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: ns + "-team"}, Spec: scheduling.QueueSpec{Weight: 1}, Status: scheduling.QueueStatus{Allocated: corev1.ResourceList{}}}
	create(t, queue)
	t.Cleanup(func() { _ = plane.Client.Delete(context.WithoutCancel(t.Context()), queue) })
	annotate := func(value string) {
		t.Helper()
		patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, scheduling.QueueNameAnnotationKey, value)
		if err := plane.Client.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, client.RawPatch("application/merge-patch+json", []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	annotate(queue.Name)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "job", 1)
	create(t, j)
	waitPhase(t, j, batch.Running)
	annotate("another")
	patch := `[{"op":"replace","path":"/spec/tasks/0/replicas","value":2}]`
	if err := plane.Client.Patch(t.Context(), j.DeepCopy(), client.RawPatch("application/json-patch+json", []byte(patch))); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		pods := podsOf(ctx, t, ns)
		if len(pods) != 2 {
			return fmt.Sprintf("%d pods", len(pods))
		}
		for i := range pods {
			if pods[i].Labels[batch.QueueNameKey] != queue.Name {
				return fmt.Sprintf("pod %s: labels %v", pods[i].Name, pods[i].Labels)
			}
		}
		pg, err := podGroupOf(ctx, j)
		if err != nil || pg.Spec.Queue != queue.Name {
			return fmt.Sprintf("PodGroup %v: %v", pg.Spec, err)
		}
		return ""
	})
	got := &batch.Job{}
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(j), got); err != nil || got.Spec.Queue != scheduling.DefaultQueue {
		t.Errorf("the job's own spec.queue is %q: %v", got.Spec.Queue, err)
	}
}
