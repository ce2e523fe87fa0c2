package driver_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/scheduler/binder"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

const within = 60 * time.Second

var plane *controllertest.Plane

func TestMain(m *testing.M) {
	var err error
	if plane, err = controllertest.Start(nativeGroups...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	plane.Stop()
	os.Exit(code)
}

// wire counts the writes of one scheduler and lets a test break them.
type wire struct {
	within time.Duration // that gangs wait for their volumes; 0 is as the program does
	next   http.RoundTripper
	mu     sync.Mutex
	wrote  []string
	// fault, when set, answers a request in place of the API server.
	fault func(r *http.Request, next http.RoundTripper) (*http.Response, error, bool)
}

func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		w.mu.Lock()
		w.wrote = append(w.wrote, r.Method+" "+r.URL.Path)
		fault := w.fault
		w.mu.Unlock()
		if fault != nil {
			if resp, err, done := fault(r, w.next); done {
				return resp, err
			}
		}
	}
	return w.next.RoundTrip(r)
}

func (w *wire) writes() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.wrote...)
}

func isBinding(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/binding") }

var errCut = errors.New("connection cut by the test")

// startScheduler runs a whole scheduler until the returned function is called,
// which waits for its end.
func startScheduler(t *testing.T, w *wire, more ...func(*binder.Config)) (stop func()) {
	t.Helper()
	return startWith(t, w, schedtest.Pipeline(), "", more...)
}

// startWith runs a scheduler with a pipeline, which keeps what it learns in a
// namespace, if any.
func startWith(t *testing.T, w *wire, pipeline framework.Pipeline, keepIn string, more ...func(*binder.Config)) (stop func()) {
	t.Helper()
	config := rest.CopyConfig(plane.Config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { w.next = rt; return w })
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	volcano, err := versioned.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	free, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := binder.EnsureQueues(ctx, volcano); err != nil {
		t.Fatal(err)
	}
	events := record.NewBroadcaster()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: clients.CoreV1().Events("")})
	c, metrics := cache.New(), driver.NewMetrics(prometheus.NewRegistry())
	settings := binder.Config{
		Client: clients, Volcano: volcano, Dynamic: free, Cache: c, Workers: 4, HoldFor: 300 * time.Millisecond, Now: time.Now, NewID: uuid.NewString, Observe: metrics,
		Events: events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "isthmus-scheduler"}),
	}
	for _, change := range more {
		change(&settings)
	}
	b := binder.New(settings)
	b.WaitForClaims(w.within)
	d := &driver.Driver{Cache: c, Pipeline: pipeline, Binder: b, Metrics: metrics, Now: time.Now, Timing: driver.Timing{
		Coalesce: 10 * time.Millisecond, Interval: 20 * time.Millisecond, Resync: 100 * time.Millisecond, Audit: 200 * time.Millisecond,
	}}
	wait, err := c.Watch(ctx, ctx, clients, volcano)
	if err != nil {
		t.Fatal(err)
	}
	reservations, err := c.WatchOwn(ctx, ctx, clients.Discovery(), free)
	if err != nil {
		t.Fatal(err)
	}
	keeper := &memory.Keeper{Client: clients, Namespace: keepIn, Learner: c, Every: 100 * time.Millisecond}
	var kept sync.WaitGroup
	if keepIn != "" {
		keeper.Load(ctx)
		kept.Go(func() { keeper.Run(ctx) })
	}
	b.Start(ctx)
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			<-done
			kept.Wait()
			b.Wait()
			events.Shutdown()
			wait()
			reservations()
			if found := append(c.Snapshot(time.Now()).Audit(), c.Audit()...); len(found) > 0 {
				t.Errorf("ledger at the end: %v", found)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
	t.Cleanup(func() {
		if err := plane.Client.Delete(context.Background(), o, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			t.Errorf("delete %s: %v", o.GetName(), err)
		}
	})
}

// virtualNode makes a virtual node with hosts of 4 GPUs, whose status says so.
func virtualNode(t *testing.T, name string, hosts int) {
	t.Helper()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{wellknown.VirtualNode: "true"},
			Annotations: map[string]string{wellknown.HostShapes: fmt.Sprintf(`{"shapes":[{"count":%d,"resources":{"cpu":8000,"nvidia.com/gpu":4}}]}`, hosts)},
		},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: wellknown.TaintVirtualNode, Value: "c", Effect: corev1.TaintEffectNoSchedule}}},
	}
	create(t, n)
	n.Status = corev1.NodeStatus{
		Allocatable: corev1.ResourceList{
			"cpu": *kresource.NewQuantity(int64(8*hosts), kresource.DecimalSI), "pods": kresource.MustParse("1000"),
			"nvidia.com/gpu": *kresource.NewQuantity(int64(4*hosts), kresource.DecimalSI),
		},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}
	n.Status.Capacity = n.Status.Allocatable
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	// The API server of a test has no node controller: it taints new nodes and nobody takes the taint back.
	n.Spec.Taints = []corev1.Taint{{Key: wellknown.TaintVirtualNode, Value: "c", Effect: corev1.TaintEffectNoSchedule}}
	if err := plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// gang makes a PodGroup in a phase, and its pods of 4 GPUs.
func gang(t *testing.T, ns, name string, min, pods int, phase volcanov1.PodGroupPhase) {
	t.Helper()
	create(t, &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec:       volcanov1.PodGroupSpec{MinMember: int32(min), Queue: "default"},
		Status:     volcanov1.PodGroupStatus{Phase: phase},
	})
	for i := range pods {
		member(t, ns, name, i)
	}
}

func member(t *testing.T, ns, group string, index int) {
	t.Helper()
	gpus := corev1.ResourceList{"cpu": kresource.MustParse("1"), "nvidia.com/gpu": kresource.MustParse("4")}
	create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("%s-%d", group, index), Annotations: map[string]string{
			wellknown.PodGroupName: group, "volcano.sh/task-spec": "w", "volcano.sh/task-index": fmt.Sprint(index),
		}},
		Spec: corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano, Containers: []corev1.Container{{
			Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: gpus, Limits: corev1.ResourceList{"nvidia.com/gpu": kresource.MustParse("4")}},
		}}},
	})
}

func podsOf(ctx context.Context, ns, group string) ([]corev1.Pod, error) {
	var all corev1.PodList
	if err := plane.Client.List(ctx, &all, client.InNamespace(ns)); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var out []corev1.Pod
	for _, p := range all.Items {
		own := p.Spec.SchedulingGroup
		if p.Annotations[wellknown.PodGroupName] == group || own != nil && own.PodGroupName != nil && *own.PodGroupName == group {
			out = append(out, p)
		}
	}
	return out, nil
}

// eventuallyBound waits until n pods of a gang are bound and returns all its pods.
func eventuallyBound(t *testing.T, ns, group string, n int) []corev1.Pod {
	t.Helper()
	var pods []corev1.Pod
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		var err error
		if pods, err = podsOf(ctx, ns, group); err != nil {
			return err.Error()
		}
		bound := 0
		for _, p := range pods {
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		if bound != n {
			return fmt.Sprintf("%d of %d pods of %s are bound", bound, n, group)
		}
		return ""
	})
	return pods
}

func eventuallyGroup(t *testing.T, ns, name string, check func(volcanov1.PodGroupStatus) bool) volcanov1.PodGroupStatus {
	t.Helper()
	var pg volcanov1.PodGroup
	controllertest.Eventually(t, within, func(ctx context.Context) string {
		if err := plane.Client.Get(ctx, client.ObjectKey{Namespace: ns, Name: name}, &pg); err != nil {
			return err.Error()
		}
		if !check(pg.Status) {
			return fmt.Sprintf("PodGroup %s says %+v", name, pg.Status)
		}
		return ""
	})
	return pg.Status
}

// oneAttempt checks that the bound pods carry one attempt with their ranks.
func oneAttempt(t *testing.T, pods []corev1.Pod) {
	t.Helper()
	attempt := ""
	for i, p := range pods {
		a := p.Annotations
		if i == 0 {
			attempt = a[wellknown.GangAttempt]
		}
		if _, err := uuid.Parse(a[wellknown.GangAttempt]); err != nil || a[wellknown.GangAttempt] != attempt {
			t.Errorf("pod %s has attempt %q, want the UUID %q", p.Name, a[wellknown.GangAttempt], attempt)
		}
		if a[wellknown.GangSize] != fmt.Sprint(len(pods)) || a[wellknown.GangRank] != a["volcano.sh/task-index"] {
			t.Errorf("pod %s has size %s and rank %s", p.Name, a[wellknown.GangSize], a[wellknown.GangRank])
		}
	}
}

func setPhase(t *testing.T, pods []corev1.Pod, phase corev1.PodPhase) {
	t.Helper()
	for _, p := range pods {
		patch := client.MergeFrom(p.DeepCopy())
		p.Status.Phase = phase
		if err := plane.Client.Status().Patch(t.Context(), &p, patch); err != nil {
			t.Fatal(err)
		}
	}
}
