package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// life runs all controllers behind a gate until stop is called or the gate is cut,
// and returns when nothing of them runs any more.
func life(t *testing.T, plane *controllertest.Plane, gate *controllertest.Gate, stop <-chan struct{}) {
	t.Helper()
	cfg := rest.CopyConfig(plane.Config)
	cfg.Wrap(gate.Wrap)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	defer cancel()
	o := options{metricsAddress: "0", healthAddress: "0", workers: 4, podGroups: true, inherit: true, schedulers: []string{"volcano"}, now: time.Now}
	mgr, err := newManager(ctx, cfg, o, logr.Discard())
	if err != nil {
		t.Errorf("make manager: %v", err) // not Fatal: this may be another goroutine
		return
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	select {
	case <-gate.Cut():
	case <-stop:
	case err := <-done:
		t.Errorf("the controllers ended by themselves: %v", err)
		return
	}
	cancel()
	<-done // one that was cut off cannot end well
}

// made counts the objects of a namespace that were ever made, by kind and name.
func made(t *testing.T, plane *controllertest.Plane, ns string, list client.ObjectList, key func(client.Object) string) func() map[string]int {
	t.Helper()
	watcher, err := client.NewWithWatch(plane.Config, client.Options{Scheme: plane.Scheme})
	if err != nil {
		t.Fatal(err)
	}
	w, err := watcher.Watch(t.Context(), list, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]map[types.UID]bool{}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range w.ResultChan() {
			o, ok := e.Object.(client.Object)
			if !ok {
				continue
			}
			mu.Lock()
			k := key(o)
			if seen[k] == nil {
				seen[k] = map[types.UID]bool{}
			}
			seen[k][o.GetUID()] = true
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { w.Stop(); <-ended })
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]int{}
		for k, uids := range seen {
			out[k] = len(uids)
		}
		return out
	}
}

// world is one object for each controller, and what they are to come to.
type world struct {
	plane      *controllertest.Plane
	ns, parent string
	pods, jobs func() map[string]int
}

func newWorld(t *testing.T, plane *controllertest.Plane) *world {
	t.Helper()
	w := &world{plane: plane, ns: plane.Namespace(t)}
	t.Cleanup(func() { w.remove(context.WithoutCancel(t.Context())) })
	w.parent = w.ns + "-parent"
	w.pods = made(t, plane, w.ns, &corev1.PodList{}, func(o client.Object) string {
		return o.GetName() + " of retry " + o.GetAnnotations()[batch.JobRetryCountKey]
	})
	w.jobs = made(t, plane, w.ns, &batch.JobList{}, client.Object.GetName)
	plane.Play(t, w.ns, func(pod *corev1.Pod) (corev1.PodPhase, int32) {
		if pod.Name == "again-w-1" && pod.Annotations[batch.JobRetryCountKey] == "0" {
			return corev1.PodFailed, 3
		}
		told := pod.Name == "told-w-0" && pod.Annotations[batch.JobRetryCountKey] == "0"
		if told || strings.HasPrefix(pod.Name, "plain") || strings.HasPrefix(pod.Name, "replica") || strings.HasPrefix(pod.Name, "swap") {
			return corev1.PodRunning, 0
		}
		return corev1.PodSucceeded, 0
	})
	create := func(o client.Object) {
		t.Helper()
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "busybox"}}}
	task := []batch.TaskSpec{{Name: "w", Replicas: 2, Template: corev1.PodTemplateSpec{Spec: spec}}}
	create(&batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "again"}, Spec: batch.JobSpec{Tasks: task, Plugins: map[string][]string{"svc": {}, "env": {}},
		Policies: []batch.LifecyclePolicy{{Action: bus.RestartJobAction, Event: bus.PodFailedEvent}}}})
	for _, name := range []string{"first", "second"} {
		create(&flow.JobTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}, Spec: batch.JobSpec{Tasks: task}})
	}
	create(&flow.JobFlow{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "f"}, Spec: flow.JobFlowSpec{JobRetainPolicy: flow.Retain, Flows: []flow.Flow{
		{Name: "first"}, {Name: "second", DependsOn: &flow.DependsOn{Targets: []string{"first"}}}}}})
	create(&batch.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "cron"}, Spec: batch.CronJobSpec{Schedule: "@every 1s", ConcurrencyPolicy: batch.ForbidConcurrent,
		SuccessfulJobsHistoryLimit: ptr.To[int32](1), JobTemplate: batch.JobTemplateSpec{Spec: batch.JobSpec{Tasks: task}}}})
	w.more(t, task)
	owned := spec
	owned.SchedulerName = "volcano"
	rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "rs", Annotations: map[string]string{scheduling.VolcanoGroupMinMemberAnnotationKey: "2"}},
		Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}}, Spec: spec}}}
	create(rs)
	for i := range 2 {
		create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: fmt.Sprint("replica-", i), Labels: map[string]string{"app": "x"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}, Spec: owned})
	}
	create(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "plain"}, Spec: owned})
	for name, parent := range map[string]string{w.parent: "root", w.ns + "-child": w.parent} {
		create(&scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: scheduling.QueueSpec{Weight: 1, Parent: parent},
			Status: scheduling.QueueStatus{State: scheduling.QueueStateOpen, Allocated: corev1.ResourceList{}}})
	}
	q := &scheduling.Queue{}
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: w.parent}, q); err != nil {
		t.Fatal(err)
	}
	create(&bus.Command{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "close"}, Action: string(bus.CloseQueueAction),
		TargetObject: metav1.NewControllerRef(q, scheduling.SchemeGroupVersion.WithKind("Queue"))})
	return w
}

// remove takes away what the next test would otherwise have to work on.
func (w *world) remove(ctx context.Context) {
	for _, kind := range []client.Object{&batch.CronJob{}, &flow.JobFlow{}, &flow.JobTemplate{}, &batch.Job{}, &appsv1.ReplicaSet{}, &corev1.Pod{}} {
		_ = w.plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(w.ns), client.PropagationPolicy(metav1.DeletePropagationBackground), client.GracePeriodSeconds(0))
	}
	for _, name := range []string{w.ns + "-child", w.parent} {
		_ = w.plane.Client.Delete(ctx, &scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
}

// lacks says what is not as it is to be in the end.
func (w *world) lacks(ctx context.Context) string {
	get := func(name string, o client.Object) error {
		return w.plane.Client.Get(ctx, client.ObjectKey{Namespace: w.ns, Name: name}, o)
	}
	job, f := &batch.Job{}, &flow.JobFlow{}
	if err := get("again", job); err != nil || job.Status.State.Phase != batch.Completed {
		return fmt.Sprintf("job: %v %+v", err, job.Status)
	}
	if err := get("f", f); err != nil || f.Status.State.Phase != flow.Succeed {
		return fmt.Sprintf("flow: %v %+v", err, f.Status)
	}
	if lack := w.lacksMore(ctx); lack != "" {
		return lack
	}
	template := &flow.JobTemplate{}
	if err := get("second", template); err != nil || len(template.Status.JobDependsOnList) != 1 {
		return fmt.Sprintf("template: %v %+v", err, template.Status)
	}
	cron := &batch.CronJob{}
	if err := get("cron", cron); err != nil || cron.Status.LastSuccessfulTime == nil {
		return fmt.Sprintf("cron: %v %+v", err, cron.Status)
	}
	var pods corev1.PodList
	if err := w.plane.Client.List(ctx, &pods, client.InNamespace(w.ns)); err != nil {
		return err.Error()
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; p.Spec.SchedulerName == "volcano" && p.Annotations[scheduling.KubeGroupNameAnnotationKey] == "" {
			return "pod " + p.Name + " names no PodGroup"
		}
	}
	for _, name := range []string{w.parent, w.ns + "-child"} {
		q := &scheduling.Queue{}
		if err := w.plane.Client.Get(ctx, client.ObjectKey{Name: name}, q); err != nil || q.Status.State != scheduling.QueueStateClosed {
			return fmt.Sprintf("queue: %v %+v", err, q.Status)
		}
	}
	var commands bus.CommandList
	if err := w.plane.Client.List(ctx, &commands, client.InNamespace(w.ns)); err != nil || len(commands.Items) > 0 {
		return fmt.Sprintf("%d commands are left: %v", len(commands.Items), err)
	}
	return ""
}

// right checks what must hold however often the controllers ended: no pod and no
// job made twice, no retry lost or counted twice.
func (w *world) right(t *testing.T) {
	t.Helper()
	for _, name := range []string{"again", "told"} {
		job := &batch.Job{}
		if err := w.plane.Client.Get(t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, job); err != nil {
			t.Fatal(err)
		}
		if job.Status.RetryCount != 1 || job.Status.Version != 1 {
			t.Errorf("job %s: retries %d, version %d, want 1 and 1", name, job.Status.RetryCount, job.Status.Version)
		}
	}
	for name, n := range w.pods() {
		if n != 1 {
			t.Errorf("pod %s was made %d times", name, n)
		}
	}
	for name, n := range w.jobs() {
		if n != 1 {
			t.Errorf("job %s was made %d times", name, n)
		}
	}
	var groups scheduling.PodGroupList
	if err := w.plane.Client.List(t.Context(), &groups, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	owners := map[types.UID]int{}
	for i := range groups.Items {
		owners[groups.Items[i].OwnerReferences[0].UID]++
	}
	for uid, n := range owners {
		if n != 1 {
			t.Errorf("owner %s has %d PodGroups", uid, n)
		}
	}
}

func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

// All controllers are cut off at one write after another, which has or has not
// reached the API server, and begin anew. ISTHMUS_SEEDS runs it so often, with the
// first of them at every single write.
func TestKilledAtWrites(t *testing.T) {
	plane := shared(t)
	seeds := number("ISTHMUS_SEEDS", 1)
	for seed := range seeds {
		random := rand.New(rand.NewPCG(uint64(seed), 7)) //nolint:gosec // a seed that can be given again
		w := newWorld(t, plane)
		over := time.Now().Add(3 * time.Minute)
		lives := 0
		for w.lacks(t.Context()) != "" && time.Now().Before(over) {
			lives++
			gate := controllertest.NewGate()
			most := 6
			if seed == 0 && seeds > 1 {
				most = 1
			}
			gate.CutAt(1+random.IntN(most), []controllertest.Fault{controllertest.Lost, controllertest.Unheard}[random.IntN(2)])
			stop, stopped := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(stopped)
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for range tick.C {
					select {
					case <-gate.Cut():
						return
					default:
					}
					if w.lacks(context.WithoutCancel(t.Context())) == "" || time.Now().After(over) {
						close(stop)
						return
					}
				}
			}()
			life(t, plane, gate, stop)
			<-stopped
		}
		if lack := w.lacks(t.Context()); lack != "" {
			t.Fatalf("seed %d: after %d lives: %s", seed, lives, lack)
		}
		t.Logf("seed %d: %d lives", seed, lives)
		w.right(t)
	}
}

// Every third write has a fault, each in turn, and watches break: the end is the
// same.
func TestFaultyAPIServer(t *testing.T) {
	plane := shared(t)
	w := newWorld(t, plane)
	gate := controllertest.NewGate()
	faults := []controllertest.Fault{controllertest.Lost, controllertest.Unheard, controllertest.Refused, controllertest.Conflict, controllertest.Throttled}
	gate.Decide = func(n int, _, _ string) controllertest.Fault {
		if n%3 != 0 {
			return controllertest.None
		}
		return faults[n/3%len(faults)]
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { defer close(stopped); life(t, plane, gate, stop) }()
	// Three times only: client-go waits twice as long after each break, up to a minute,
	// also before the first list is there, and reads wait for that.
	looks, next := 0, 20
	controllertest.Eventually(t, 3*time.Minute, func(ctx context.Context) string {
		if looks++; looks == next && next < 1000 {
			next *= 4
			gate.CutWatches()
		}
		return w.lacks(ctx)
	})
	close(stop)
	<-stopped
	t.Logf("%d writes", gate.Writes())
	w.right(t)
}

// planeOf is the control plane that the tests of this file share.
var planeOf = sync.OnceValues(func() (*controllertest.Plane, error) {
	plane, err := controllertest.Start()
	if err != nil {
		return nil, err
	}
	if err := plane.StartGarbageCollector(); err != nil {
		plane.Stop()
		return nil, err
	}
	stopPlane = plane.Stop
	return plane, nil
})

// stopPlane ends what planeOf began.
var stopPlane = func() {}

func shared(t *testing.T) *controllertest.Plane {
	t.Helper()
	plane, err := planeOf()
	if err != nil {
		t.Fatal(err)
	}
	return plane
}
