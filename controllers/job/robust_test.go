package job_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

func metaLen(list client.ObjectList) int { return meta.LenList(list) }

func mustParse(s string) resource.Quantity { return resource.MustParse(s) }

// A job that breaks a rule says which, keeps no pods, and runs once corrected.
func TestInvalidJobIsExplainedAndCorrected(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Succeed)
	j := newJob(ns, "wrong", 1)
	j.Spec.Plugins = map[string][]string{"env": {"--x"}, "mpi": {}}
	j.Spec.Policies = []batch.LifecyclePolicy{{Action: bus.SyncJobAction, Event: bus.PodFailedEvent}}
	create(t, j)
	got := &batch.Job{}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
			return err.Error()
		}
		st := got.Status.State
		for _, want := range []string{`spec.plugins[env]`, `spec.plugins[mpi]`, `spec.policies[0].action: Unsupported value: "SyncJob"`} {
			if st.Phase != batch.Pending || st.Reason != "InvalidSpec" || !strings.Contains(st.Message, want) {
				return fmt.Sprintf("state %+v lacks %s", st, want)
			}
		}
		var list eventsv1.EventList
		if err := plane.Client.List(ctx, &list, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		for i := range list.Items {
			if e := &list.Items[i]; e.Reason == "InvalidSpec" && e.Type == corev1.EventTypeWarning && e.Regarding.Name == "wrong" {
				return ""
			}
		}
		return "no event"
	})
	if n := len(podsOf(t.Context(), t, ns)); n != 0 {
		t.Fatalf("%d pods", n)
	}
	got.Spec.Plugins, got.Spec.Policies = nil, nil
	if err := plane.Client.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, j, batch.Completed)
}

// What the API server refuses is shown in the job's status.
func TestRefusedPodIsExplained(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Succeed)
	j := newJob(ns, "refused", 1)
	j.Spec.Tasks[0].Template.Spec.Containers[0].Image = "" // valid for the CRD, not for a pod
	create(t, j)
	got := &batch.Job{}
	controllertest.Eventually(t, patience, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
			return err.Error()
		}
		if st := got.Status.State; st.Reason != "FailedCreate" || !strings.Contains(st.Message, "image") {
			return fmt.Sprintf("state %+v", st)
		}
		return ""
	})
	got.Spec.Tasks[0].Template.Spec.Containers[0].Image = "busybox"
	if err := plane.Client.Update(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	waitPhase(t, j, batch.Completed)
}

func TestEvictedPodIsReplacedAndScaling(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Run)
	j := newJob(ns, "elastic", 2)
	j.Spec.Plugins = map[string][]string{"svc": {"--disable-network-policy"}}
	create(t, j)
	waitPhase(t, j, batch.Running)
	pods := podsOf(t.Context(), t, ns)
	first := pods[0].UID
	if err := plane.Client.Delete(t.Context(), &pods[0]); err != nil {
		t.Fatal(err)
	}
	running := func(n int32, hosts string) func(context.Context) string {
		return func(ctx context.Context) string {
			got, cm := &batch.Job{}, &corev1.ConfigMap{}
			if err := plane.Client.Get(ctx, client.ObjectKeyFromObject(j), got); err != nil {
				return err.Error()
			}
			if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: "elastic-svc"}, cm); err != nil {
				return err.Error()
			}
			pods := podsOf(ctx, t, ns)
			if got.Status.Running != n || len(pods) != int(n) || pods[0].UID == first || cm.Data["VC_W_HOSTS"] != hosts {
				return fmt.Sprintf("status %+v, %d pods, hosts %v", got.Status, len(pods), cm.Data)
			}
			return ""
		}
	}
	controllertest.Eventually(t, patience, running(2, "elastic-w-0.elastic,elastic-w-1.elastic"))
	scale := func(n int) {
		patch := fmt.Sprintf(`[{"op":"replace","path":"/spec/tasks/0/replicas","value":%d}]`, n)
		if err := plane.Client.Patch(t.Context(), j.DeepCopy(), client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
			t.Fatal(err)
		}
	}
	scale(3)
	controllertest.Eventually(t, patience, running(3, "elastic-w-0.elastic,elastic-w-1.elastic,elastic-w-2.elastic"))
	scale(1)
	controllertest.Eventually(t, patience, running(1, "elastic-w-0.elastic"))
	pg, err := podGroupOf(t.Context(), j)
	if err != nil || pg.Spec.MinMember != 1 || pg.Spec.MinTaskMember["w"] != 1 {
		t.Errorf("PodGroup %v %+v", err, pg.Spec)
	}
}

// The controller is stopped and started at random points while users change the
// same jobs. Every pod of a run is made once.
func TestRestartsAndConflicts(t *testing.T) {
	t.Parallel()
	ns := plane.Namespace(t)
	const jobs, replicas = 6, 4
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	// Count every pod that was ever made.
	watcher, err := client.NewWithWatch(plane.Config, client.Options{Scheme: plane.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	w, err := watcher.Watch(ctx, &corev1.PodList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	made := map[string]map[types.UID]bool{}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok {
				mu.Lock()
				if made[pod.Name] == nil {
					made[pod.Name] = map[types.UID]bool{}
				}
				made[pod.Name][pod.UID] = true
				mu.Unlock()
			}
		}
	}()
	defer func() { w.Stop(); <-watched }()

	plane.Play(t, ns, controllertest.Succeed)
	var all []*batch.Job
	for i := range jobs {
		j := newJob(ns, fmt.Sprint("restart-", i), replicas)
		create(t, j)
		all = append(all, j)
	}
	// Others write to the jobs meanwhile.
	noise := make(chan struct{})
	go func() {
		defer close(noise)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			<-tick.C
			patch := fmt.Sprintf(`{"metadata":{"annotations":{"example.org/noise":"%d"}}}`, i)
			j := &batch.Job{}
			j.Namespace, j.Name = ns, all[i%jobs].Name
			_ = plane.Client.Patch(ctx, j, client.RawPatch(types.MergePatchType, []byte(patch)))
		}
	}()
	random := rand.New(rand.NewPCG(1, 2))
	for range 6 {
		stop := startController(t, ns)
		timer := time.NewTimer(time.Duration(50+random.IntN(500)) * time.Millisecond)
		<-timer.C
		stop()
	}
	startController(t, ns)
	for _, j := range all {
		st := waitPhase(t, j, batch.Completed).Status
		if st.Version != 0 || st.Succeeded != replicas {
			t.Errorf("%s: %+v", j.Name, st)
		}
	}
	cancel()
	<-noise
	mu.Lock()
	defer mu.Unlock()
	if len(made) != jobs*replicas {
		t.Errorf("%d pod names, want %d", len(made), jobs*replicas)
	}
	for name, uids := range made {
		if len(uids) != 1 {
			t.Errorf("pod %s was made %d times", name, len(uids))
		}
	}
}

// Many short jobs come and go; afterwards the controller is as it was.
func TestManyShortJobsLeaveNothing(t *testing.T) {
	ns := plane.Namespace(t)
	startController(t, ns)
	plane.Play(t, ns, controllertest.Succeed)
	run := func(name string) {
		j := newJob(ns, name, 1)
		j.Spec.TTLSecondsAfterFinished = new(int32)
		create(t, j)
	}
	run("warm-up")
	gone(t, ns)
	before := runtime.NumGoroutine()
	for i := range 200 {
		run(fmt.Sprint("short-", i))
	}
	controllertest.Eventually(t, 3*time.Minute, func(ctx context.Context) string {
		var jobs batch.JobList
		var groups scheduling.PodGroupList
		if err := plane.Client.List(ctx, &jobs, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		if err := plane.Client.List(ctx, &groups, client.InNamespace(ns)); err != nil {
			return err.Error()
		}
		if pods := podsOf(ctx, t, ns); len(jobs.Items)+len(groups.Items)+len(pods) > 0 {
			return fmt.Sprintf("%d jobs, %d PodGroups, %d pods are left", len(jobs.Items), len(groups.Items), len(pods))
		}
		return ""
	})
	controllertest.Eventually(t, patience, func(context.Context) string {
		runtime.GC()
		if n := runtime.NumGoroutine(); n > before+10 {
			return fmt.Sprintf("%d goroutines, %d before", n, before)
		}
		return ""
	})
}
