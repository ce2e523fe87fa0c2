package tracing_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
)

// canary is in variables, arguments and error texts, and must be in no span.
const canary = "canary-5f1d0c"

// world is a provider on a simulated batch system.
type world struct {
	t      *testing.T
	api    *providertest.API
	stager *providertest.Stager
	system *fake.System
	clock  *clocktesting.FakePassiveClock
	bridge *provider.Bridge
	code   int32 // of each container
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, api: providertest.NewAPI(), stager: providertest.NewStager()}
	cfg := fake.Uniform(4, 16, 64<<10, "a100", 8)
	cfg.Program = func(backends.JobSpec) fake.Behaviour {
		return fake.Behaviour{
			Duration: 30 * time.Second, ExitCode: int(w.code),
			OnStart: func(r fake.Run) { w.report(r, manifest.PhaseRunning) },
			OnEnd: func(r fake.Run, s backends.State) {
				if s == backends.StateCompleted {
					w.report(r, manifest.PhaseSucceeded)
				} else {
					w.report(r, manifest.PhaseFailed)
				}
			},
		}
	}
	w.system = fake.New(cfg)
	w.clock = clocktesting.NewFakePassiveClock(w.system.Now())
	return w
}

// report writes what the runners of a job would.
func (w *world) report(r fake.Run, phase manifest.Phase) {
	now := metav1.NewTime(w.system.Now())
	w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
		for rank, p := range g.Output.Pods {
			st := g.Pods[rank]
			if st.Seq == 0 {
				st = manifest.Status{Version: manifest.Version, UID: string(p.Pod.UID), Rank: rank, Host: "h001", HostIP: "10.0.0.1", StartedAt: now}
			}
			st.Seq++
			st.Restart, st.Phase = r.Restart, phase
			c := manifest.Container{Name: "main"}
			if phase.Terminal() {
				st.FinishedAt = now
				c.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: w.code, Reason: "Completed", Message: canary, StartedAt: st.StartedAt, FinishedAt: now}
			} else {
				c.Ready, c.Started = true, true
				c.State.Running = &corev1.ContainerStateRunning{StartedAt: now}
			}
			st.Containers = []manifest.Container{c}
			g.Pods[rank] = st
		}
		if phase.Terminal() {
			g.End = &manifest.End{Restart: r.Restart, ExitCode: int(w.code), FinishedAt: now}
		}
	})
}

// tracer gives one that sends to endpoint.
func (w *world) tracer(endpoint string) *tracing.Tracer {
	w.t.Helper()
	tracer, err := tracing.New(w.t.Context(), tracing.Config{
		Endpoint: endpoint, Service: "isthmus-vnode", Instance: "test", Now: w.clock.Now, Log: logr.Discard(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tracer
}

// boot starts a daemon that remembers nothing.
func (w *world) boot(tracer *tracing.Tracer) {
	w.bridge = provider.NewBridge(provider.Options{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "test"},
			Spec: hpcv1alpha1.BatchClusterSpec{
				Type: "slurm", Accounts: []hpcv1alpha1.Account{{User: "alice"}}, Runtimes: []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost},
				Staging: hpcv1alpha1.Staging{Directory: "/staging"},
			},
		},
		Owner: "test-cluster", Launcher: "slurm", Backend: w.system, Stager: w.stager, Pods: w.api, Objects: providertest.Objects{},
		Gate: tracer.Gate(effect.Open{}), Tracer: tracer, Clock: w.clock, Log: logr.Discard(),
	})
	w.bridge.SetVirtualNodes([]hpcv1alpha1.VirtualNode{{Name: "node-main", Partition: "main", MaxPodsPending: 1000}})
}

func (w *world) tick() {
	for i := range 4 {
		w.bridge.Pass(w.t.Context(), i == 0 || i == 2)
		w.bridge.Wait()
	}
	w.system.Advance(5 * time.Second)
	w.clock.SetTime(w.system.Now())
}

// until ticks until every pod is in the phase.
func (w *world) until(phase corev1.PodPhase) {
	w.t.Helper()
	for range 60 {
		w.tick()
		if !slices.ContainsFunc(w.api.List(), func(p *corev1.Pod) bool { return p.Status.Phase != phase }) {
			return
		}
	}
	for _, p := range w.api.List() {
		w.t.Logf("%s: %+v", p.Name, p.Status)
	}
	w.t.Fatalf("not all pods are %s", phase)
}

// gang binds pods g-0, g-1, ... as one attempt.
func (w *world) gang(size int) (uids []types.UID) {
	for rank := range size {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: fmt.Sprintf("g-%d", rank), UID: types.UID(fmt.Sprintf("uid-%d", rank)), CreationTimestamp: metav1.NewTime(w.clock.Now()),
				Annotations: map[string]string{wellknown.GangAttempt: "a", wellknown.GangSize: fmt.Sprint(size), wellknown.GangRank: fmt.Sprint(rank)},
			},
			Spec: corev1.PodSpec{
				NodeName: "node-main", RestartPolicy: corev1.RestartPolicyNever,
				Containers: []corev1.Container{{
					Name: "main", Image: "none", Command: []string{"/bin/echo", canary}, Args: []string{canary},
					Env: []corev1.EnvVar{{Name: "TOKEN", Value: canary}},
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
						corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"),
					}},
				}},
			},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		}
		if rank == 1 { // it goes on with a trace of its own
			p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: "TRACEPARENT", Value: "own"})
		}
		w.api.Create(p)
		uids = append(uids, p.UID)
	}
	return uids
}

// traceparents gives the last TRACEPARENT of each rank as it was staged.
func (w *world) traceparents() map[int]string {
	out := map[int]string{}
	key := backends.Key(w.api.Get("uid-0").Annotations[wellknown.SubmitIntent])
	w.stager.Change(key, func(g *providertest.StagedGang) {
		for _, p := range g.Output.Pods {
			for _, v := range p.Env["main"] {
				if v.Name == "TRACEPARENT" {
					out[p.Rank] = string(v.Value)
				}
			}
		}
	})
	return out
}

// A gang's life is one trace from the pods to their containers, through a restart
// of the daemon, and holds nothing that a user wrote.
func TestOneTraceFromPodToContainer(t *testing.T) {
	r, w := newReceiver(t), newWorld(t)
	w.code = 3
	first := w.tracer(r.server.URL)
	w.boot(first)
	w.gang(2)
	w.until(corev1.PodRunning)
	first.Close(t.Context())
	second := w.tracer(r.server.URL)
	w.boot(second)
	w.until(corev1.PodFailed)
	second.Close(t.Context())

	want := []string{
		"g-0: pod", "g-0: pod > intent", "g-0: pod > queued", "g-0: pod > record", "g-0: pod > release",
		"g-0: pod > running", "g-0: pod > running > container main", "g-0: pod > stage", "g-0: pod > submit",
		"g-1: pod", "g-1: pod > intent", "g-1: pod > queued", "g-1: pod > record",
		"g-1: pod > running", "g-1: pod > running > container main",
	}
	got, traces := r.tree()
	if !slices.Equal(got, want) {
		t.Errorf("spans:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(traces) != 1 {
		t.Fatalf("%d traces: %v", len(traces), traces)
	}
	job := w.system.Jobs()[0]
	for _, pod := range []string{"g-0", "g-1"} {
		for _, s := range r.find(pod, "container main") {
			if code, id, part := attribute(s, "process.exit.code"), attribute(s, "isthmus.job.id"), attribute(s, "isthmus.partition"); code != "3" || id != string(job.ID) || part != "main" {
				t.Errorf("container of %s: exit code %s, job %s, partition %s", pod, code, id, part)
			}
			if lasted := time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano); lasted != 30*time.Second { //nolint:gosec // a difference of seconds
				t.Errorf("container of %s lasted %v", pod, lasted)
			}
		}
	}
	if s := r.find("g-0", "submit"); len(s) != 1 || attribute(s[0], "isthmus.job.id") != string(job.ID) {
		t.Errorf("submit does not tell its job: %v", s)
	}
	root := r.find("g-0", "pod")[0]
	given := w.traceparents()
	if want := fmt.Sprintf("00-%s-%x-01", traces[0], root.SpanId); given[0] != want {
		t.Errorf("TRACEPARENT %q, want %q", given[0], want)
	}
	if given[1] != "own" {
		t.Errorf("the pod's own TRACEPARENT became %q", given[1])
	}
	if r.holds(canary) {
		t.Error("spans hold what a user wrote")
	}
	if !r.holds("uid-0") {
		t.Error("the search for what users wrote finds nothing at all")
	}
}

// A failed effect tells its class alone.
func TestFailureTellsItsKind(t *testing.T) {
	r, w := newReceiver(t), newWorld(t)
	tracer := w.tracer(r.server.URL)
	gate := tracer.Gate(effect.Open{})
	ctx := tracing.With(t.Context(), tracing.Gang{Key: "k", Pods: []tracing.Pod{{Namespace: "ns", Name: "g-0", UID: "u"}}}, "")
	failure := &backends.Error{Op: "submit", Kind: backends.KindThrottled, Err: errors.New(canary)}
	if err := gate.Do(ctx, "submit", func(context.Context) error { return failure }); !errors.Is(err, failure) {
		t.Errorf("the gate changed the error: %v", err)
	}
	for _, name := range []string{"observe", "patch-status"} {
		if err := gate.Do(ctx, name, func(context.Context) error { return nil }); err != nil {
			t.Error(err)
		}
	}
	if err := gate.Do(t.Context(), "cancel", func(context.Context) error { return nil }); err != nil { // of no gang
		t.Error(err)
	}
	tracer.Close(t.Context())
	spans := r.find("g-0", "submit")
	if lines, _ := r.tree(); len(lines) != 1 || len(spans) != 1 || attribute(spans[0], "error.type") != string(backends.KindThrottled) {
		t.Errorf("spans %v", lines)
	}
	if r.holds(canary) {
		t.Error("the span holds the error's text")
	}
}

// Off, nothing of a pod changes.
func TestOffChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.boot(nil)
	w.gang(1)
	w.until(corev1.PodSucceeded)
	if got := w.traceparents(); len(got) != 0 {
		t.Errorf("TRACEPARENT %v", got)
	}
	if _, ok := (*tracing.Tracer)(nil).Gate(effect.Open{}).(effect.Open); !ok {
		t.Error("effects pass through a gate of their own")
	}
}

// A collector that is not there costs no effect.
func TestCollectorAway(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	tracer := w.tracer("http://" + address)
	w.boot(tracer)
	w.gang(3)
	w.until(corev1.PodSucceeded)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	tracer.Close(over) // the spans are dropped
}

// A collector that takes requests and never answers blocks no effect, not even
// with a full queue.
func TestCollectorHangs(t *testing.T) {
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-answer
		w.WriteHeader(http.StatusBadRequest)
	}))
	defer server.Close()
	defer close(answer)
	w := newWorld(t)
	tracer := w.tracer(server.URL)
	gate := tracer.Gate(effect.Open{})
	ctx := tracing.With(t.Context(), tracing.Gang{Key: "k", Pods: []tracing.Pod{{Namespace: "ns", Name: "g-0", UID: "u"}}}, "1")
	done := 0
	effects := func(n int) {
		for range n {
			if err := gate.Do(ctx, "record", func(context.Context) error { done++; return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	effects(600) // a batch is full
	<-asked
	effects(20_000)
	if done != 20_600 {
		t.Errorf("%d effects", done)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	tracer.Close(over)
}

func TestEndpoint(t *testing.T) {
	for _, bad := range []string{"", "collector:4318", "grpc://c:4317", "http://c", "http://u:p@c:4318", "http://c:4318/x", "http://c:4318?x=1", "http://:4318"} {
		if tracer, err := tracing.New(t.Context(), tracing.Config{Endpoint: bad, Log: logr.Discard()}); err == nil {
			tracer.Close(t.Context())
			t.Errorf("%q is taken", bad)
		} else if strings.Contains(err.Error(), "u:p") {
			t.Errorf("the error repeats credentials: %v", err)
		}
	}
}
