package queue

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podresource "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// plane is the control plane that the tests of this package share.
var plane *controllertest.Plane

func TestMain(m *testing.M) { os.Exit(controllertest.Main(m, &plane)) }

func queueNamed(name, parent string, state scheduling.QueueState) scheduling.Queue {
	return scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: scheduling.QueueSpec{Parent: parent}, Status: scheduling.QueueStatus{State: state}}
}

func groupIn(name, queue string, phase scheduling.PodGroupPhase) scheduling.PodGroup {
	return scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: scheduling.PodGroupSpec{Queue: queue}, Status: scheduling.PodGroupStatus{Phase: phase}}
}

func podIn(group, node string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Annotations: map[string]string{scheduling.KubeGroupNameAnnotationKey: group}},
		Spec: corev1.PodSpec{SchedulerName: "volcano", NodeName: node, Containers: []corev1.Container{{
			Name: "main", Image: "busybox", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	foreign := podIn("a1", "n", corev1.PodRunning)
	foreign.Spec.SchedulerName = "default-scheduler"
	plain := podIn("", "n", corev1.PodRunning)
	plain.Annotations = map[string]string{scheduling.QueueNameAnnotationKey: "b"}
	got := ledger(
		[]scheduling.Queue{queueNamed("root", "", ""), queueNamed("default", "root", "Open"), queueNamed("team", "", ""),
			queueNamed("a", "team", "Closing"), queueNamed("b", "team", "Closed"), queueNamed("c", "", "Closing"), queueNamed("e", "", "Closing"),
			queueNamed("x", "y", ""), queueNamed("y", "x", "")},
		[]scheduling.PodGroup{groupIn("a1", "a", "Running"), groupIn("a2", "a", "Pending"), groupIn("a3", "a", "Inqueue"), groupIn("a4", "a", "Completed"),
			groupIn("a5", "a", "Unknown"), groupIn("d1", "", ""), groupIn("e1", "e", "Completed"), groupIn("x1", "x", "Running"), groupIn("z1", "absent", "Running")},
		[]corev1.Pod{podIn("a1", "n", corev1.PodRunning), podIn("a1", "n", corev1.PodPending), podIn("a1", "", corev1.PodPending),
			podIn("a1", "n", corev1.PodSucceeded), podIn("d1", "n", corev1.PodRunning), podIn("x1", "n", corev1.PodRunning), foreign, plain})
	want := map[string]string{
		"root":    "Open 0/0/0/0/0 8", // 2 of a, 1 of default, 1 of b
		"default": "Open 1/0/0/0/0 2",
		"team":    "Open 0/0/0/0/0 6",
		"a":       "Closing 1/1/1/1/1 4",
		"b":       "Closed 0/0/0/0/0 2",
		"c":       "Closed 0/0/0/0/0 0",
		"e":       "Closed 0/0/0/1/0 0", // its Jobs have ended and are kept
		"x":       "Open 0/0/1/0/0 10",  // a loop is counted round, not for ever
		"y":       "Open 0/0/0/0/0 8",
	}
	for name, text := range want {
		st := got[name]
		cpu := st.Allocated[corev1.ResourceCPU]
		have := fmt.Sprintf("%s %d/%d/%d/%d/%d %s", st.State, st.Pending, st.Inqueue, st.Running, st.Completed, st.Unknown, cpu.String())
		if have != text {
			t.Errorf("%s: %s, want %s", name, have, text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d queues, want %d", len(got), len(want))
	}
}

// A pod that is resized in place counts with what it was asked to have until its node refuses
// that, and then with what it has; one that is made smaller, with what it still has.
func TestLedgerOfResizedPods(t *testing.T) {
	t.Parallel()
	resized := func(has, asks string, conditions ...corev1.PodCondition) corev1.Pod {
		p := podIn("a1", "n", corev1.PodRunning)
		p.Spec.Containers = []corev1.Container{{Name: "main", Resources: requesting(asks)}}
		given := requesting(has)
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", AllocatedResources: given.Requests, Resources: &given}}
		p.Status.Conditions = conditions
		return p
	}
	refused := corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible}
	later := corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonDeferred}
	for name, c := range map[string]struct {
		pod  corev1.Pod
		want string
	}{
		"asks for more":    {resized("1", "6"), "6"},
		"will have it":     {resized("1", "6", later), "6"},
		"is refused":       {resized("1", "6", refused), "1"},
		"asks for less":    {resized("6", "1"), "6"},
		"as it always was": {resized("2", "2"), "2"},
	} {
		got := ledger([]scheduling.Queue{queueNamed("a", "", "Open")}, []scheduling.PodGroup{groupIn("a1", "a", "Running")}, []corev1.Pod{c.pod})
		if cpu := got["a"].Allocated[corev1.ResourceCPU]; cpu.String() != c.want {
			t.Errorf("a pod that %s counts %s, want %s", name, cpu.String(), c.want)
		}
	}
}

// Nearly all pods have what they ask for; adding up those costs little more than their
// specs alone, since it is done for all pods up to once a second.
func TestLedgerOfUsualPodsIsCheap(t *testing.T) {
	usual := podIn("a1", "n", corev1.PodRunning)
	usual.Spec.Containers = []corev1.Container{{Name: "main", Resources: requesting("2")}}
	given := requesting("2")
	usual.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", AllocatedResources: given.Requests, Resources: &given}}
	queues, groups := []scheduling.Queue{queueNamed("a", "", "Open")}, []scheduling.PodGroup{groupIn("a1", "a", "Running")}
	few, many := slices.Repeat([]corev1.Pod{usual}, 100), slices.Repeat([]corev1.Pod{usual}, 200)
	costs := testing.AllocsPerRun(10, func() { ledger(queues, groups, many) }) - testing.AllocsPerRun(10, func() { ledger(queues, groups, few) })
	spec := testing.AllocsPerRun(10, func() { podresource.PodRequests(&usual, podresource.PodResourcesOptions{}) })
	if most := 100 * (spec + 2); costs > most { // the key of its PodGroup as well
		t.Errorf("100 pods that have what they ask for cost %v allocations, want at most %v: their specs alone %v each", costs, most, spec)
	}
}

func requesting(cpu string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
}

// The standing queues appear by themselves and come back; numbers follow the
// PodGroups and pods; nothing is written when nothing changes.
func TestQueues(t *testing.T) {
	plane.Run(t, ctrl.Options{}, func(_ context.Context, mgr ctrl.Manager) error {
		return (&Reconciler{Client: mgr.GetClient(), Events: mgr.GetEventRecorder(Name), Pause: 50 * time.Millisecond}).SetupWithManager(mgr)
	})

	standing := func(ctx context.Context) string {
		for _, name := range []string{"root", "default"} {
			q := &scheduling.Queue{}
			if err := plane.Client.Get(ctx, client.ObjectKey{Name: name}, q); err != nil {
				return err.Error()
			}
			if q.Status.State != scheduling.QueueStateOpen || q.Spec.Weight != 1 || (name == "default") != (q.Spec.Parent == "root") {
				return fmt.Sprintf("%s: %+v", name, q)
			}
		}
		return ""
	}
	controllertest.Eventually(t, 30*time.Second, standing)
	if err := plane.Client.Delete(t.Context(), &scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, 30*time.Second, standing)

	ns := plane.Namespace(t)
	group := groupIn("g", "default", scheduling.PodGroupRunning)
	group.Namespace = ns
	pod := podIn("g", "n", "")
	pod.Namespace, pod.Name = ns, "p"
	if err := plane.Client.Create(t.Context(), &group); err != nil {
		t.Fatal(err)
	}
	if err := plane.Client.Create(t.Context(), &pod); err != nil {
		t.Fatal(err)
	}
	var version string
	check := func(running int32, cpu string) {
		t.Helper()
		controllertest.Eventually(t, 30*time.Second, func(ctx context.Context) string {
			for _, name := range []string{"root", "default"} {
				q := &scheduling.Queue{}
				if err := plane.Client.Get(ctx, client.ObjectKey{Name: name}, q); err != nil {
					return err.Error()
				}
				have := q.Status.Allocated[corev1.ResourceCPU]
				if have.String() != cpu || name == "default" && q.Status.Running != running {
					return fmt.Sprintf("%s: %+v", name, q.Status)
				}
				version = q.ResourceVersion
			}
			return ""
		})
	}
	check(1, "2")
	quiet := version
	labelled := pod.DeepCopy()
	labelled.Labels = map[string]string{"some": "change"}
	if err := plane.Client.Patch(t.Context(), labelled, client.MergeFrom(&pod)); err != nil {
		t.Fatal(err)
	}
	other := queueNamed("other", "root", "")
	other.Spec.Reclaimable = ptr.To(true)
	other.Status.Allocated = corev1.ResourceList{}
	if err := plane.Client.Create(t.Context(), &other); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, 30*time.Second, func(ctx context.Context) string {
		q := &scheduling.Queue{}
		if err := plane.Client.Get(ctx, client.ObjectKey{Name: "other"}, q); err != nil || q.Status.State != scheduling.QueueStateOpen {
			return fmt.Sprintf("other: %v %+v", err, q.Status)
		}
		return ""
	})
	if check(1, "2"); version != quiet {
		t.Errorf("the queue was written without a change: %s, then %s", quiet, version)
	}
	if err := plane.Client.Delete(t.Context(), &pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	if err := plane.Client.Delete(t.Context(), &group); err != nil {
		t.Fatal(err)
	}
	check(0, "0")
	checkCommands(t)
}
