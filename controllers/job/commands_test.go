package job_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// order writes the Command that vcctl writes.
func order(t *testing.T, j *batch.Job, uid types.UID, action bus.Action) {
	t.Helper()
	ref := metav1.NewControllerRef(j, batch.SchemeGroupVersion.WithKind("Job"))
	ref.UID = uid
	c := &bus.Command{ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, GenerateName: j.Name + "-"}, TargetObject: ref, Action: string(action)}
	if uid == j.UID {
		c.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	create(t, c)
}

// noCommands waits until every Command was taken.
func noCommands(t *testing.T, namespace string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var list bus.CommandList
		if err := plane.Client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return err.Error()
		}
		return map[bool]string{true: fmt.Sprintf("%d commands are left", len(list.Items))}[len(list.Items) > 0]
	})
}

// A job is suspended and resumed as vcctl does it; a Command for another job of
// the name does nothing, and none is left behind.
func TestSuspendAndResume(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "job", 2)
	create(t, j)
	waitPhase(t, j, batch.Running)
	order(t, j, "of-another", bus.TerminateJobAction)
	noCommands(t, ns)
	waitPhase(t, j, batch.Running)
	order(t, j, j.UID, bus.AbortJobAction)
	waitPhase(t, j, batch.Aborted)
	noCommands(t, ns)
	if pods := podsOf(t.Context(), t, ns); len(pods) != 0 {
		t.Errorf("%d pods of a suspended job", len(pods))
	}
	order(t, j, j.UID, bus.ResumeJobAction)
	got := waitPhase(t, j, batch.Running)
	if got.Status.RetryCount != 1 || got.Status.Version != 2 || got.Status.Running != 2 {
		t.Errorf("status %+v", got.Status)
	}
	noCommands(t, ns)
	absent := newJob(ns, "absent", 1)
	absent.UID = "never"
	order(t, absent, "gone", bus.AbortJobAction)
	noCommands(t, ns)
}

// One pod of a job fails: it alone comes again, and the rest runs on.
func TestRestartPod(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		if pod.Name == "job-w-1" && pod.Annotations[batch.JobRetryCountKey] == "0" {
			return corev1.PodFailed, 3
		}
		return corev1.PodRunning, 0
	})
	j := newJob(ns, "job", 3)
	j.Spec.Policies = []batch.LifecyclePolicy{{Action: bus.RestartPodAction, Event: bus.PodFailedEvent}}
	create(t, j)
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), j); err != nil {
			return err.Error()
		}
		if st := j.Status; st.State.Phase != batch.Running || st.Running != 3 || st.RetryCount != 1 || st.Version != 0 {
			return fmt.Sprintf("status %+v", st)
		}
		return ""
	})
	for _, pod := range podsOf(t.Context(), t, ns) {
		if want := map[bool]string{true: "1", false: "0"}[pod.Name == "job-w-1"]; pod.Annotations[batch.JobRetryCountKey] != want {
			t.Errorf("pod %s is of retry %s", pod.Name, pod.Annotations[batch.JobRetryCountKey])
		}
	}
}
