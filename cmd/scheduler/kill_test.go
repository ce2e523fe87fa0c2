package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// asScheduler makes the test program be the scheduler: a process of its own that
// can be killed, from the same code.
const asScheduler = "ISTHMUS_TEST_AS_SCHEDULER"

func TestMain(m *testing.M) {
	if os.Getenv(asScheduler) != "" {
		main()
		os.Exit(0)
	}
	code := m.Run()
	if thePlane != nil {
		thePlane.Stop()
	}
	os.Exit(code)
}

// thePlane is the control plane of all tests, nil before the first that wants it: to
// start and stop one takes longer than most of them.
var thePlane *controllertest.Plane

// shared is the control plane. A test runs alone and leaves no node and no pod behind.
func shared(t *testing.T) *controllertest.Plane {
	t.Helper()
	if thePlane == nil {
		p, err := controllertest.Start()
		if err != nil {
			t.Fatal(err)
		}
		thePlane = p
	}
	return thePlane
}

const (
	// patience is for a busy machine: a whole process starts and lists the cluster.
	patience = 2 * time.Minute
	gangSize = 4
)

// fate is what becomes of a scheduler at one of its writes.
type fate struct {
	of     string // the kind of write, as kindOf says; "" for any
	at     int    // the write, counted from 1 among those of the kind
	after  bool   // the API server has it already, and nobody hears so
	signal syscall.Signal
}

// runner is one scheduler process, whose requests pass through the test.
type runner struct{ *controllertest.Program }

// start starts a scheduler, which has its fate at the write that it is due at: before
// that write reaches the API server, or after.
func start(t *testing.T, plane *controllertest.Plane, f fate, flags ...string) *runner {
	t.Helper()
	of := func(q *http.Request) bool { return f.of == "" || f.of == kindOf(q) }
	return &runner{plane.StartProgram(t, controllertest.Fate{Of: of, At: f.at, After: f.after, Signal: f.signal}, asScheduler,
		append([]string{"--metrics-bind-address=127.0.0.1:0"}, flags...)...)}
}

// leads waits until the scheduler has the lease.
func (r *runner) leads(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if text, err := os.ReadFile(r.Log); err == nil && strings.Contains(string(text), "Successfully acquired lease") {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it never has the lease:\n%s", r.Tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// world is a cluster that its gangs fill to the last GPU, so that one pod that is
// out of its place keeps a gang from ever being whole.
type world struct {
	plane     *controllertest.Plane
	namespace string
	nodes     map[string]int64 // GPUs
	gangs     int
	partials  partials
}

func newWorld(t *testing.T, plane *controllertest.Plane, round int) *world {
	t.Helper()
	w := &world{plane: plane, namespace: plane.Namespace(t), nodes: map[string]int64{}}
	t.Cleanup(func() { w.remove(t) })
	for i := range 2 {
		w.node(t, fmt.Sprintf("v%d-%d", round, i), 16, true)
	}
	for i := range 2 {
		w.node(t, fmt.Sprintf("n%d-%d", round, i), 8, false)
	}
	for _, gpus := range w.nodes {
		w.gangs += int(gpus) / gangSize
	}
	for g := range w.gangs {
		name := fmt.Sprintf("g%d", g)
		w.create(t, &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Spec: volcanov1.PodGroupSpec{MinMember: gangSize, Queue: "default"}})
		for i := range gangSize {
			w.pod(t, name, i)
		}
	}
	return w
}

func (w *world) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := w.plane.Client.Create(t.Context(), o); err != nil {
		t.Fatalf("create %s: %v", o.GetName(), err)
	}
}

func (w *world) node(t *testing.T, name string, gpus int64, virtual bool) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if virtual {
		n.Labels = map[string]string{wellknown.VirtualNode: "true"}
		n.Annotations = map[string]string{wellknown.HostShapes: fmt.Sprintf(`{"shapes":[{"count":%d,"resources":{"cpu":64000,"nvidia.com/gpu":4}}]}`, gpus/4)}
	}
	w.create(t, n)
	offers := corev1.ResourceList{"cpu": kresource.MustParse("64"), "pods": kresource.MustParse("110"), "nvidia.com/gpu": *kresource.NewQuantity(gpus, kresource.DecimalSI)}
	n.Status = corev1.NodeStatus{Allocatable: offers, Capacity: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	if err := w.plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil // that of a new node, which a node controller would take off
	if err := w.plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	w.nodes[name] = gpus
}

func (w *world) pod(t *testing.T, group string, index int) {
	t.Helper()
	gpu := corev1.ResourceList{"nvidia.com/gpu": kresource.MustParse("1")}
	w.create(t, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("%s-%d", group, index), Annotations: map[string]string{
			wellknown.PodGroupName: group, "volcano.sh/task-spec": "w", "volcano.sh/task-index": strconv.Itoa(index),
		}},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerVolcano,
			Tolerations:   []corev1.Toleration{{Key: wellknown.TaintVirtualNode, Operator: corev1.TolerationOpExists}},
			Containers:    []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: gpu, Limits: gpu}}},
		},
	})
}

// look reads all pods at one moment and tells what is wrong for good, and what
// is not whole yet.
func (w *world) look(ctx context.Context) (open string, wrong error) {
	open, _, wrong = w.see(ctx)
	return open, wrong
}

// see is look that lists the gangs that are placed in part, too.
func (w *world) see(ctx context.Context) (open string, partial []string, wrong error) {
	var pods corev1.PodList
	if err := w.plane.Client.List(ctx, &pods, client.InNamespace(w.namespace)); err != nil {
		return err.Error(), nil, nil //nolint:nilerr // it is asked again, until somebody gives up
	}
	used := map[string]int64{}
	gangs := map[string][]corev1.Pod{}
	for _, p := range pods.Items {
		if p.Spec.NodeName != "" {
			used[p.Spec.NodeName]++
			group := p.Annotations[wellknown.PodGroupName]
			gangs[group] = append(gangs[group], p)
		}
	}
	for node, n := range used {
		if n > w.nodes[node] {
			return "", nil, fmt.Errorf("node %s has %d GPUs and %d pods", node, w.nodes[node], n)
		}
	}
	whole := 0
	for group, members := range gangs {
		ranks, attempts, domains := map[string]bool{}, map[string]bool{}, map[string]bool{}
		for _, p := range members {
			ranks[p.Annotations[wellknown.GangRank]] = true
			attempts[p.Annotations[wellknown.GangAttempt]] = true
			domains[strings.SplitN(p.Spec.NodeName, "-", 2)[0]+map[bool]string{true: p.Spec.NodeName}[p.Spec.NodeName[0] == 'v']] = true
		}
		if len(attempts) > 1 || len(domains) > 1 || len(ranks) != len(members) {
			return "", nil, fmt.Errorf("gang %s has attempts %v in %v with ranks %v", group, attempts, domains, ranks)
		}
		if len(members) == gangSize {
			whole++
			continue
		}
		partial = append(partial, group)
		open = fmt.Sprintf("gang %s has %d of %d members", group, len(members), gangSize)
	}
	if whole < w.gangs {
		return strings.TrimSuffix(fmt.Sprintf("%d of %d gangs are whole, %s", whole, w.gangs, open), ", "), partial, nil
	}
	return "", nil, nil
}

// watch looks again and again until the returned function is called.
func (w *world) watch(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			_, partial, wrong := w.see(ctx)
			if wrong == nil {
				wrong = w.partials.look(partial)
			}
			if wrong != nil {
				done <- wrong
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
		done <- nil
	}()
	return func() {
		t.Helper()
		cancel()
		if wrong := <-done; wrong != nil {
			t.Error(wrong)
		}
	}
}

// whole waits until every gang is.
func (w *world) whole(t *testing.T, rs ...*runner) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the time is over"))
	defer cancel()
	for {
		open, wrong := w.look(ctx)
		if wrong != nil {
			t.Fatal(wrong)
		}
		if open == "" {
			return
		}
		select {
		case <-ctx.Done():
			for _, r := range rs {
				t.Logf("log of a scheduler that sent %d writes:\n%s", r.Sent(), r.Tail())
			}
			t.Fatalf("%v: %s", context.Cause(ctx), open)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// remove takes the world away, so that the next finds the cluster empty.
func (w *world) remove(t *testing.T) {
	t.Helper()
	clear(t, w.plane, w.namespace)
}

// clear deletes what a test made in a namespace, and all nodes.
func clear(t *testing.T, plane *controllertest.Plane, namespace string) {
	t.Helper()
	in, ctx := client.InNamespace(namespace), context.WithoutCancel(t.Context()) // the test may have ended
	if err := errors.Join(
		plane.Client.DeleteAllOf(ctx, &corev1.Pod{}, in, client.GracePeriodSeconds(0)),
		plane.Client.DeleteAllOf(ctx, &volcanov1.PodGroup{}, in),
		plane.Client.DeleteAllOf(ctx, &corev1.Node{}),
	); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a positive number", name, text)
	}
	return n
}

// TestKilledSchedulers kills schedulers with SIGKILL, each at a write drawn at
// random, before the API server has it or after, and starts the next at once. At
// no moment is a node over-committed, a gang in two places, or partial for longer
// than a cycle and 5 seconds of a scheduler's work; the last scheduler finds every
// gang its place in a cluster that has just enough, and what it counts as held is
// what the pods in the API hold.
// ISTHMUS_SCHEDULER_KILLS sets how many are killed; 6 in each round.
func TestKilledSchedulers(t *testing.T) {
	plane := shared(t)
	left := number(t, "ISTHMUS_SCHEDULER_KILLS", 6)
	seed := uint64(number(t, "ISTHMUS_SCHEDULER_SEED", 1))
	for round := 0; left > 0; round++ {
		random := rand.New(rand.NewPCG(seed, uint64(round)))
		w := newWorld(t, plane, round)
		stop := w.watch(t)
		for range min(6, left) {
			left--
			f := fate{at: 1 + random.IntN(20), after: random.IntN(2) == 0, signal: syscall.SIGKILL}
			r := start(t, plane, f, "--leader-elect=false", "--bind-workers="+strconv.Itoa(1+random.IntN(8)))
			w.partials.by.Store(r)
			select {
			case <-r.Exited():
				if !r.Fated() {
					t.Fatalf("seed %d, round %d: a scheduler ended by itself:\n%s", seed, round, r.Tail())
				}
			case <-w.done(t):
				// Nothing was left to write.
			case <-time.After(patience):
				t.Fatalf("seed %d, round %d: a scheduler has sent %d writes of %d and stands still:\n%s", seed, round, r.Sent(), f.at, r.Tail())
			}
			r.Kill()
		}
		last := start(t, plane, fate{}, "--leader-elect=false", "--audit-interval=100ms")
		w.partials.by.Store(last)
		w.whole(t, last)
		w.agrees(t, last)
		stop()
		t.Logf("round %d: no gang was partial for longer than %v of a scheduler's work", round, w.partials.oldest)
		last.Kill()
		w.remove(t)
		if t.Failed() {
			t.Fatalf("seed %d, round %d", seed, round)
		}
	}
}

// done is closed once every gang is whole.
func (w *world) done(t *testing.T) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for ctx.Err() == nil {
			if open, wrong := w.look(ctx); open == "" && wrong == nil {
				close(out)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
	return out
}

// TestStoppedLeaderSendsNothingMore stops the scheduler that holds the lease in
// the middle of its bindings, so that another takes over and decides for itself,
// and lets the first go on: it ends, and what it had still to send is not sent.
func TestStoppedLeaderSendsNothingMore(t *testing.T) {
	plane := shared(t)
	w := newWorld(t, plane, 0)
	stop := w.watch(t)
	flags := []string{
		"--leader-elect-namespace=" + w.namespace, "--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms",
		"--bind-workers=2", "--kube-api-qps=20", "--kube-api-burst=1",
	}
	// Its writes are slow, so that many are left when it is stopped at a binding.
	first := start(t, plane, fate{at: w.gangs + 10, signal: syscall.SIGSTOP}, flags...)
	select {
	case <-first.Struck():
	case <-first.Exited():
		t.Fatalf("the first scheduler ended:\n%s", first.Tail())
	case <-time.After(patience):
		t.Fatalf("the first scheduler has sent %d writes and stands still:\n%s", first.Sent(), first.Tail())
	}
	if open, _ := w.look(t.Context()); open == "" {
		t.Fatal("nothing was left to do for the second scheduler")
	}
	second := start(t, plane, fate{}, flags[:4]...)
	second.leads(t) // also where what the first had under way completes all gangs
	w.whole(t, first, second)
	before := first.Sent()
	if err := first.Process().Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-first.Exited():
	case <-time.After(patience):
		t.Fatalf("the first scheduler goes on without its lease:\n%s", first.Tail())
	}
	if n := first.Sent() - before; n > 0 {
		t.Errorf("the first scheduler sent %d more writes after it had lost its lease:\n%s", n, first.Tail())
	}
	w.whole(t, second)
	stop()
}
