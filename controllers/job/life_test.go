package job_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networking "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// A job waits for its queue, gets pods, runs and completes.
func TestLife(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	j := newJob(ns, "hello", 2)
	create(t, j)
	waitPhase(t, j, batch.Pending)
	var pg *scheduling.PodGroup
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var err error
		if pg, err = podGroupOf(ctx, j); err != nil {
			return err.Error()
		}
		return ""
	})
	if pg.Status.Phase != scheduling.PodGroupPending || pg.Spec.MinMember != 2 || !metav1.IsControlledBy(pg, j) {
		t.Fatalf("PodGroup %+v", pg)
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		got := &batch.Job{}
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
			return err.Error()
		}
		if got.Status.State.Reason != "PodGroupPending" || !strings.Contains(got.Status.State.Message, "queue default") {
			return fmt.Sprintf("state %+v", got.Status.State)
		}
		return ""
	})
	if pods := podsOf(t.Context(), t, ns); len(pods) != 0 {
		t.Fatalf("%d pods before the PodGroup is Inqueue", len(pods))
	}
	plane.Play(t, ns, controllertest.Succeed)
	done := waitPhase(t, j, batch.Completed)
	st := done.Status
	if st.Succeeded != 2 || st.MinAvailable != 2 || st.RunningDuration == nil || st.TaskStatusCount["w"].Phase[corev1.PodSucceeded] != 2 {
		t.Errorf("status %+v", st)
	}
	var phases []string
	for _, c := range st.Conditions {
		phases = append(phases, string(c.Status))
	}
	if got := strings.Join(phases, " "); got != "Pending Running Completed" {
		t.Errorf("phases %s", got)
	}
	pods := podsOf(t.Context(), t, ns)
	if len(pods) != 2 || pods[0].Name != "hello-w-0" || pods[0].Labels[batch.JobNameKey] != "hello" || pods[0].Annotations[scheduling.KubeGroupNameAnnotationKey] != pg.Name {
		t.Errorf("pods %+v", pods)
	}
	if done.Spec.MinAvailable != 0 || done.Spec.Tasks[0].MinAvailable != nil {
		t.Error("defaults were written into the spec")
	}
	// What is told to the user.
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var list eventsv1.EventList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		var got []string
		for i := range list.Items {
			got = append(got, list.Items[i].Reason)
		}
		if text := strings.Join(got, " "); !strings.Contains(text, "Completed") {
			return "events " + text
		}
		return ""
	})
	// Deleting the job leaves nothing.
	if err := plane.Client.Delete(t.Context(), j); err != nil {
		t.Fatal(err)
	}
	gone(t, ns)
}

// gone waits until a namespace holds nothing that a job makes.
func gone(t *testing.T, ns string) {
	t.Helper()
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		for _, list := range []client.ObjectList{&corev1.PodList{}, &scheduling.PodGroupList{}, &corev1.ServiceList{},
			&networking.NetworkPolicyList{}, &batch.JobList{}, &corev1.PersistentVolumeClaimList{}} {
			if err := plane.Client.List(ctx, list, client.InNamespace(ns)); err != nil {
				return err.Error()
			}
			if n := metaLen(list); n > 0 {
				return fmt.Sprintf("%d left in %T", n, list)
			}
		}
		return ""
	})
}

// What users write on a pod template reaches the pods: for this, the CRD must
// know the metadata of the template, or the API server drops it.
func TestTemplateMetadataIsKept(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "labelled", 1)
	j.Spec.Tasks[0].Template.Labels = map[string]string{"team": "physics"}
	j.Spec.Tasks[0].Template.Annotations = map[string]string{wellknown.Walltime: "10m"}
	create(t, j)
	waitPhase(t, j, batch.Running)
	pod := podsOf(t.Context(), t, ns)[0]
	if pod.Labels["team"] != "physics" || pod.Annotations[wellknown.Walltime] != "10m" || pod.Labels[batch.TaskSpecKey] != "w" {
		t.Errorf("labels %v, annotations %v", pod.Labels, pod.Annotations)
	}
}

func TestExitCodePolicyRestartsThenFails(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	j := newJob(ns, "flaky", 2)
	j.Spec.MaxRetry = 2
	j.Spec.Policies = []batch.LifecyclePolicy{{Action: bus.RestartJobAction, ExitCode: ptr.To[int32](7)}}
	plane.Play(t, ns, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		if pod.Name == "flaky-w-1" {
			return corev1.PodFailed, 7
		}
		return corev1.PodRunning, 0
	})
	create(t, j)
	st := waitPhase(t, j, batch.Failed).Status
	if st.RetryCount != 2 || st.Version != 2 || st.State.Reason != "RetriesUsedUp" || !strings.Contains(st.State.Message, "exited with code 7") {
		t.Errorf("status %+v", st)
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		pods := podsOf(ctx, t, ns)
		if len(pods) != 1 || pods[0].Status.Phase != corev1.PodFailed || pods[0].Annotations[batch.JobRetryCountKey] != "1" {
			return fmt.Sprintf("%d pods are left, want the failed one of the last try", len(pods))
		}
		if _, err := podGroupOf(ctx, j); !apierrors.IsNotFound(err) {
			return fmt.Sprintf("PodGroup: %v", err)
		}
		return ""
	})
}

func TestFailureWithoutPolicy(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, func(*corev1.Pod) (corev1.PodPhase, int32) { return corev1.PodFailed, 3 })
	j := newJob(ns, "bad", 1)
	create(t, j)
	st := waitPhase(t, j, batch.Failed).Status
	if st.Failed != 1 || !strings.Contains(st.State.Message, "exited with code 3") {
		t.Errorf("status %+v", st)
	}
}

func TestDeleteMidway(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "long", 3)
	j.Spec.Plugins = map[string][]string{"svc": {}, "env": {}}
	j.Spec.Volumes = []batch.VolumeSpec{{MountPath: "/data", VolumeClaim: &corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": mustParse("1Gi")}}}}}
	create(t, j)
	st := waitPhase(t, j, batch.Running).Status
	if st.ControlledResources["plugin-svc"] != "svc" || st.ControlledResources["plugin-env"] != "env" || len(st.ControlledResources) != 3 {
		t.Errorf("controlledResources %v", st.ControlledResources)
	}
	if err := plane.Client.Delete(t.Context(), j, client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	// A claim waits for its protection controller, which is not here.
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		var claims corev1.PersistentVolumeClaimList
		if err := plane.Client.List(ctx, &claims, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		for i := range claims.Items {
			if c := &claims.Items[i]; c.DeletionTimestamp != nil && len(c.Finalizers) > 0 {
				c.Finalizers = nil
				if err := plane.Client.Update(ctx, c); err != nil {
					return err.Error()
				}
			}
		}
		if len(claims.Items) > 0 {
			return "claims are left"
		}
		return ""
	})
	gone(t, ns)
}

func TestTimeToLive(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Succeed)
	for _, ttl := range []int32{0, 1} {
		j := newJob(ns, fmt.Sprint("ttl-", ttl), 1)
		j.Spec.TTLSecondsAfterFinished = &ttl
		create(t, j)
	}
	gone(t, ns)
}

// A same-name job waits for the pods of the older one; it never adopts them.
func TestSameNameIsNotTheSameJob(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	old := newJob(ns, "again", 1)
	create(t, old)
	waitPhase(t, old, batch.Running)
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name = ns, "again-w-0"
	// As a provider does until the batch job has ended.
	hold := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.org/hold"]}}`))
	if err := plane.Client.Patch(t.Context(), pod, hold); err != nil {
		t.Fatal(err)
	}
	if err := plane.Client.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	fresh := newJob(ns, "again", 1)
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Create(ctx, fresh); err != nil {
			return err.Error()
		}
		return ""
	})
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		got := &batch.Job{}
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(fresh), got); err != nil {
			return err.Error()
		}
		if got.Status.State.Reason != "NameTaken" || !strings.Contains(got.Status.State.Message, string(old.UID)) {
			return fmt.Sprintf("state %+v", got.Status.State)
		}
		if got.Status.Running+got.Status.Pending+got.Status.Terminating != 0 {
			t.Errorf("the old pod is counted: %+v", got.Status)
		}
		return ""
	})
	key := client.ObjectKeyFromObject(pod)
	if err := plane.Client.Get(t.Context(), key, pod); err != nil {
		t.Fatal(err)
	}
	if !metav1.IsControlledBy(pod, old) {
		t.Fatal("the old pod changed hands")
	}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Patch(ctx, pod, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))); client.IgnoreNotFound(err) != nil {
			return err.Error()
		}
		return ""
	})
	waitPhase(t, fresh, batch.Running)
	if err := plane.Client.Get(t.Context(), key, pod); err != nil || !metav1.IsControlledBy(pod, fresh) {
		t.Fatalf("the new job's pod: %v %v", err, pod.OwnerReferences)
	}
}
