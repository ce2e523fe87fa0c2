package provider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// window is a reverse proxy before a real API server that may show another list
// of pods than there is. Watches tell nothing meanwhile; all else, every write
// above all, reaches the server.
type window struct {
	*httptest.Server
	mu      sync.Mutex
	show    func(real []byte) []byte // nil shows what is
	changed chan struct{}
	lists   int // distorted ones that were served
}

func newWindow(t *testing.T, config *rest.Config) *window {
	t.Helper()
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	w := &window{changed: make(chan struct{})}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	w.Server = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		show, changed := w.show, w.changed
		w.mu.Unlock()
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		switch pods := r.Method == http.MethodGet && r.URL.Path == "/api/v1/pods"; {
		case pods && r.URL.Query().Get("watch") != "":
			go func() { // ends with the view, so that the client lists again
				select {
				case <-changed:
					cancel()
				case <-ctx.Done():
				}
			}()
			if show == nil {
				proxy.ServeHTTP(out, r.WithContext(ctx))
				return
			}
			if r.URL.Query().Get("sendInitialEvents") != "" { // as a server that does not know it
				out.Header().Set("Content-Type", "application/json")
				out.WriteHeader(http.StatusUnprocessableEntity)
				_, _ = io.WriteString(out, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is forbidden for watch"}`)
				return
			}
			<-ctx.Done()
		case pods && show != nil:
			real := httptest.NewRecorder()
			r.Header.Set("Accept", "application/json")
			r.Header.Del("Accept-Encoding")
			proxy.ServeHTTP(real, r)
			out.Header().Set("Content-Type", "application/json")
			out.WriteHeader(real.Code)
			_, _ = out.Write(show(real.Body.Bytes()))
			w.mu.Lock()
			w.lists++
			w.mu.Unlock()
		default:
			proxy.ServeHTTP(out, r)
		}
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *window) set(show func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.show = show
	close(w.changed)
	w.changed = make(chan struct{})
}

// keep is a view that shows only those pods of a list.
func keep(t *testing.T, list []byte, wanted func(name string) bool) []byte {
	var pods corev1.PodList
	if err := json.Unmarshal(list, &pods); err != nil {
		t.Errorf("the server's list: %v", err)
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !wanted(p.Name) })
	out, err := json.Marshal(&pods)
	if err != nil {
		t.Error(err)
	}
	return out
}

// R4 on a real API server: a reverse proxy stands between it and the daemon, and
// shows no pods, a part of them, all as they were before a job was recorded, or
// those of an older copy of etcd, for an hour. No job is cancelled; the brake says
// why; and with the true view the daemon goes on as if nothing had been.
func TestBrakeBehindAProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server; not with -short")
	}
	plane, err := controllertest.Start()
	if err != nil {
		t.Fatalf("no API server: %v", err)
	}
	t.Cleanup(plane.Stop)
	through := newWindow(t, rest.CopyConfig(plane.Config))
	client, err := kubernetes.NewForConfig(&rest.Config{Host: through.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	namespace := plane.Namespace(t)
	const running = 24
	for _, view := range []struct {
		name string
		// show makes the view of the server's list now and of the one before any
		// job was recorded.
		show   func(t *testing.T, now, before []byte) []byte
		braked bool
	}{
		{"empty", func(t *testing.T, now, _ []byte) []byte { return keep(t, now, func(string) bool { return false }) }, true},
		{"filtered", func(t *testing.T, now, _ []byte) []byte {
			return keep(t, now, func(name string) bool { return name == "filtered-0" })
		}, true},
		{"barely-filtered", func(t *testing.T, now, _ []byte) []byte { // one more than may be missing
			return keep(t, now, func(name string) bool { return !strings.HasSuffix(name, "1") && !strings.HasSuffix(name, "2") })
		}, true},
		{"stale", func(_ *testing.T, _, before []byte) []byte { return before }, false}, // an old version still owns its job
		{"rolled-back", func(t *testing.T, _, before []byte) []byte {
			return keep(t, before, func(name string) bool { return strings.HasSuffix(name, "0") })
		}, true},
	} {
		t.Run(view.name, func(t *testing.T) {
			through.set(nil)
			w := newKubeWorld(t, client, namespace, "node-"+view.name)
			for i := range running {
				w.create(fmt.Sprintf("%s-%d", view.name, i))
			}
			before, err := w.listed()
			if err != nil {
				t.Fatal(err)
			}
			daemon, end := w.daemon()
			controllertest.Eventually(t, 2*time.Minute, func(context.Context) string {
				w.pass(daemon)
				for _, p := range w.pods() {
					if p.Annotations[wellknown.BatchJobID] == "" || p.Status.Phase != corev1.PodRunning {
						return fmt.Sprintf("pod %s is %s, job %q", p.Name, p.Status.Phase, p.Annotations[wellknown.BatchJobID])
					}
				}
				return ""
			})
			end()

			through.set(func(now []byte) []byte { return view.show(t, now, before) })
			daemon, end = w.daemon() // starts into the wrong view
			defer func() { end() }()
			why := ""
			for range 360 { // an hour
				w.pass(daemon)
				w.advance(10 * time.Second)
				why = daemon.Brake()
			}
			w.intact(running)
			if (why != "") != view.braked {
				t.Errorf("the brake says %q, want it to act: %v", why, view.braked)
			}
			through.mu.Lock()
			lists := through.lists
			through.lists = 0
			through.mu.Unlock()
			if lists == 0 {
				t.Error("the daemon never saw the wrong view")
			}

			through.set(nil)
			controllertest.Eventually(t, 2*time.Minute, func(context.Context) string {
				w.pass(daemon)
				w.advance(10 * time.Second)
				return daemon.Brake()
			})
			for range 90 { // a quarter of an hour of the true view
				w.pass(daemon)
				w.advance(10 * time.Second)
			}
			w.intact(running)
			t.Logf("R4 %s: an hour and %d lists of it, 0 of %d jobs cancelled; brake: %s", view.name, lists, running, why)
		})
	}
}

// kubeWorld is a real API server for pods, seen through the window, and a batch
// system in memory.
type kubeWorld struct {
	t         *testing.T
	client    kubernetes.Interface
	namespace string
	node      string
	stager    *providertest.Stager
	system    *fake.System
	clock     *clocktesting.FakePassiveClock
}

func newKubeWorld(t *testing.T, client kubernetes.Interface, namespace, node string) *kubeWorld {
	w := &kubeWorld{t: t, client: client, namespace: namespace, node: node, stager: providertest.NewStager()}
	cfg := fake.Uniform(4, 16, 64<<10, "a100", 8)
	cfg.Program = func(backends.JobSpec) fake.Behaviour {
		return fake.Behaviour{Forever: true, OnStart: func(r fake.Run) {
			w.stager.Change(r.Spec.Key, func(g *providertest.StagedGang) {
				for rank := range g.Output.Pods {
					g.Pods[rank] = status(g, rank, r.Restart, manifest.PhaseRunning, 0)
				}
			})
		}}
	}
	w.system = fake.New(cfg)
	w.clock = clocktesting.NewFakePassiveClock(w.system.Now())
	return w
}

func (w *kubeWorld) create(name string) {
	w.t.Helper()
	if _, err := w.client.CoreV1().Pods(w.namespace).Create(w.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: w.node, RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{Name: "main", Image: "none", Command: []string{"/bin/true"}}},
		},
	}, metav1.CreateOptions{}); err != nil {
		w.t.Fatalf("create pod: %v", err)
	}
}

// listed is the server's own answer to the list that a daemon asks for.
func (w *kubeWorld) listed() ([]byte, error) {
	return w.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").Param("fieldSelector", "spec.nodeName="+w.node).
		SetHeader("Accept", "application/json").DoRaw(w.t.Context())
}

// pods are the pods as they are, whatever the window shows of lists of all
// namespaces.
func (w *kubeWorld) pods() []corev1.Pod {
	w.t.Helper()
	list, err := w.client.CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + w.node})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// daemon starts one that remembers nothing; end blocks until it is gone.
func (w *kubeWorld) daemon() (b *provider.Bridge, end func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	pods, wait := provider.WatchPods(ctx, w.client, w.node)
	b = newBridge(w.system, w.stager, pods, anyNamespace{}, w.clock, w.node)
	return b, func() {
		b.Wait()
		cancel()
		wait()
	}
}

// anyNamespace is there and has no labels.
type anyNamespace struct{ providertest.Objects }

// NamespaceLabels implements provider.Objects.
func (anyNamespace) NamespaceLabels(string) (map[string]string, bool) { return nil, true }

func (w *kubeWorld) pass(b *provider.Bridge) {
	b.Pass(w.t.Context(), true)
	b.Wait()
}

func (w *kubeWorld) advance(d time.Duration) {
	w.system.Advance(d)
	w.clock.SetTime(w.system.Now())
}

// intact checks that every job runs on, once, and every pod with it.
func (w *kubeWorld) intact(want int) {
	w.t.Helper()
	live := 0
	for _, j := range w.system.Jobs() {
		switch {
		case j.State == backends.StateRunning:
			live++
		case !j.Held:
			w.t.Errorf("job %s is %s", j.ID, j.State)
		}
	}
	pods := w.pods()
	for _, p := range pods {
		if p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			w.t.Errorf("pod %s is %s", p.Name, p.Status.Phase)
		}
	}
	if live != want || len(pods) != want {
		w.t.Errorf("%d jobs run and there are %d pods, want %d of each", live, len(pods), want)
	}
	if v := w.system.Violations(); len(v) > 0 {
		w.t.Errorf("double runs: %v", v)
	}
}
