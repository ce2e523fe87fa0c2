package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
)

// TestKubernetes proves on a real API server what the tests in memory take for
// granted.
func TestKubernetes(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server; not with -short")
	}
	plane, err := controllertest.Start()
	if err != nil {
		t.Skipf("no API server: %v", err)
	}
	t.Cleanup(plane.Stop)
	calls, err := rest.HTTPClientFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(calls.CloseIdleConnections)
	client, err := kubernetes.NewForConfigAndClient(rest.CopyConfig(plane.Config), calls)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("pods", func(t *testing.T) { testKubePods(t, client, plane.Namespace(t)) })
	t.Run("events", func(t *testing.T) { testEventsOnce(t, client, plane.Namespace(t)) })
	t.Run("reservations", func(t *testing.T) { testKubeReservations(t, client) })
	t.Run("taints and labels", func(t *testing.T) { testNodeSpec(t, client) })
	t.Run("nodes", func(t *testing.T) { testEarlierNodes(t, client, plane.Namespace(t)) })
}

// What the configuration gives a node is taken off when it leaves it; what others
// gave stays.
func testNodeSpec(t *testing.T, client kubernetes.Interface) {
	const name = "node-of-taints"
	set := newNodeSet(client, logr.Discard())
	if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"site.example/rack": "7"}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "site.example/broken", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		taints []string
		labels map[string]string
		want   string
	}{
		{[]string{"hpc"}, map[string]string{"tier": "a"}, "site.example/broken hpc|site.example/rack=7 tier=a"},
		{[]string{"hpc", "slow"}, map[string]string{"tier": "b"}, "site.example/broken hpc slow|site.example/rack=7 tier=b"},
		{nil, nil, "site.example/broken|site.example/rack=7"},
	} {
		want := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: step.labels}}
		for _, key := range step.taints {
			want.Spec.Taints = append(want.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
		}
		var versions []string
		for range 2 { // the second writes nothing
			if err := set.reconcileSpec(t.Context(), want); err != nil {
				t.Fatal(err)
			}
			n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var keys, labels []string
			for _, taint := range n.Spec.Taints {
				if taint.Key != corev1.TaintNodeNotReady { // the API server's own, on a new node
					keys = append(keys, taint.Key)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
				labels = append(labels, key+"="+n.Labels[key])
			}
			if got := strings.Join(keys, " ") + "|" + strings.Join(labels, " "); got != step.want {
				t.Errorf("%s, want %s", got, step.want)
			}
			versions = append(versions, n.ResourceVersion)
		}
		if versions[0] != versions[1] {
			t.Error("written again, though nothing had changed")
		}
	}
}

func livePod(t *testing.T, client kubernetes.Interface, namespace, name, node string) *corev1.Pod {
	t.Helper()
	p, err := client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{"example.org/other"}},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: new(int64(30)), AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{Name: "main", Image: "none"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create pod: %v", err)
	}
	return p
}

// bounded lists the taints of absent nodes that a pod endures for a while only.
func bounded(pod *corev1.Pod) (keys []string) {
	for _, t := range pod.Spec.Tolerations {
		if t.TolerationSeconds != nil {
			keys = append(keys, t.Key)
		}
	}
	return keys
}

// Whatever bounds how long a pod endures its node's absence is lifted, and no other bound.
func TestOutlasting(t *testing.T) {
	const execute = corev1.TaintEffectNoExecute
	for name, tc := range map[string]struct {
		toleration corev1.Toleration
		lifted     bool
	}{
		"not ready":         {corev1.Toleration{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: execute, TolerationSeconds: new(int64(300))}, true},
		"unreachable":       {corev1.Toleration{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: execute, TolerationSeconds: new(int64(300))}, true},
		"every taint":       {corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: execute, TolerationSeconds: new(int64(60))}, true},
		"another taint":     {corev1.Toleration{Key: "example.org/repair", Operator: corev1.TolerationOpExists, Effect: execute, TolerationSeconds: new(int64(60))}, false},
		"every, for ever":   {corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: execute}, false},
		"no such placement": {corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, false},
	} {
		out, changed := outlasting([]corev1.Toleration{tc.toleration})
		want := tc.toleration
		if tc.lifted {
			want.TolerationSeconds = nil
		}
		if changed != tc.lifted || len(out) != 1 || !reflect.DeepEqual(out[0], want) {
			t.Errorf("%s: %+v, changed %t", name, out, changed)
		}
	}
}

func testKubePods(t *testing.T, client kubernetes.Interface, namespace string) {
	ctx := t.Context()
	api := &kubePods{client: client, recorder: record.NewFakeRecorder(10), nodes: func() []string { return []string{"node-a"} }}
	pods := client.CoreV1().Pods(namespace)
	read := livePod(t, client, namespace, "one", "node-a")

	withIntent, err := api.WriteIntent(ctx, read, "ikey")
	if err != nil || withIntent.Annotations[wellknown.SubmitIntent] != "ikey" ||
		!slices.Equal(withIntent.Finalizers, []string{"example.org/other", wellknown.FinalizerBatchJob}) {
		t.Fatalf("intent: %v, %+v", err, withIntent)
	}
	if bounds := bounded(read); len(bounds) != 2 {
		t.Errorf("the API server bounds %v, want the two that it adds by default", bounds)
	}
	if bounds := bounded(withIntent); len(bounds) != 0 {
		t.Errorf("still bound to its node's absence: %v", bounds)
	}
	if out, err := api.WriteIntent(ctx, read, "iother"); !errors.Is(err, ErrConflict) || out != nil {
		t.Errorf("an intent over an old version: %v, %v", err, out)
	}
	if out, err := api.Record(ctx, read, "7", "alice"); !errors.Is(err, ErrConflict) || out != nil {
		t.Errorf("a record over an old version: %v, %v", err, out)
	}
	recorded, err := api.Record(ctx, withIntent, "7", "alice")
	if err != nil || recorded.Annotations[wellknown.BatchJobID] != "7" || recorded.Annotations[wellknown.BatchUser] != "alice" {
		t.Fatalf("record: %v, %+v", err, recorded)
	}

	// Another writes a condition meanwhile: both stay.
	foreign := []byte(`{"status":{"conditions":[{"type":"example.org/Other","status":"True"}]}}`)
	if _, err := pods.Patch(ctx, "one", types.StrategicMergePatchType, foreign, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	status := podstatus.Status(recorded, podstatus.Evidence{WaitingReason: "Submitting"}, time.Now())
	patch, changed, err := podstatus.Patch(recorded, status)
	if err != nil || !changed {
		t.Fatalf("patch: %v, changed %v", err, changed)
	}
	told, err := api.PatchStatus(ctx, recorded, patch)
	if err != nil {
		t.Fatalf("patch status: %v", err)
	}
	for _, kind := range []corev1.PodConditionType{"example.org/Other", wellknown.PodBatchJob, corev1.PodReady} {
		if !slices.ContainsFunc(told.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind }) {
			t.Errorf("condition %s is missing: %+v", kind, told.Status.Conditions)
		}
	}

	// The same name, another pod.
	stranger := told.DeepCopy()
	stranger.UID = "00000000-0000-0000-0000-000000000000"
	var doc map[string]any
	if err := json.Unmarshal(patch, &doc); err != nil {
		t.Fatal(err)
	}
	doc["metadata"] = map[string]any{"uid": stranger.UID}
	wrong, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.PatchStatus(ctx, stranger, wrong); !errors.Is(err, ErrGone) {
		t.Errorf("a status for another UID: %v", err)
	}
	if _, err := api.Record(ctx, stranger, "8", "bob"); !errors.Is(err, ErrGone) {
		t.Errorf("a record for another UID: %v", err)
	}
	stranger.DeletionTimestamp = new(metav1.Now())
	if err := api.Forget(ctx, stranger); err != nil {
		t.Errorf("to forget a pod that was replaced is success: %v", err)
	}
	if p, err := pods.Get(ctx, "one", metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil {
		t.Fatalf("the pod of the same name was hit: %v", err)
	}

	// A bound pod goes once the node says so and no finalizer is left.
	if err := pods.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	going, err := pods.Get(ctx, "one", metav1.GetOptions{})
	if err != nil || going.DeletionTimestamp == nil {
		t.Fatalf("a bound pod goes too early: %v", err)
	}
	if list, err := api.ListLive(ctx); err != nil || len(list) != 1 {
		t.Errorf("live list: %v, %d pods", err, len(list))
	}
	if err := api.Forget(ctx, going); err != nil {
		t.Fatalf("forget: %v", err)
	}
	if left, err := pods.Get(ctx, "one", metav1.GetOptions{}); err != nil || !slices.Equal(left.Finalizers, []string{"example.org/other"}) {
		t.Fatalf("the finalizer of another must stay: %v", err)
	}
	if err := api.Forget(ctx, going); err != nil {
		t.Errorf("forget again: %v", err)
	}
	if _, err := pods.Patch(ctx, "one", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "one", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod is still there: %v", err)
	}
	if err := api.Forget(ctx, going); err != nil {
		t.Errorf("to forget what is gone is success: %v", err)
	}
	if out, err := api.Record(ctx, going, "9", "alice"); !errors.Is(err, ErrGone) || out != nil {
		t.Errorf("a record of what is gone: %v, %v", err, out)
	}
}

// A node that is no longer configured, or not known yet since the batch system
// does not answer, is kept alive while it has pods.
func testEarlierNodes(t *testing.T, client kubernetes.Interface, namespace string) {
	const cluster = "earlier"
	if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "earlier-gone", Labels: map[string]string{
			wellknown.VirtualNode: "true", wellknown.Cluster: cluster, wellknown.Partition: "gone",
		}},
		Spec: corev1.NodeSpec{ProviderID: wellknown.ProviderIDScheme + cluster + "/earlier-gone"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := livePod(t, client, namespace, "old", "earlier-gone")

	for _, outage := range []bool{false, true} {
		t.Run(fmt.Sprintf("outage-%v", outage), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			system := fake.New(fake.Uniform(1, 4, 4<<10, "", 0))
			if outage {
				system.Outage(time.Hour)
			}
			f, pods := testFront(ctx, t, client, cluster, system)
			defer func() {
				cancel()
				f.nodes.Wait()
				pods.Wait()
			}()
			if err := f.begin(ctx); err != nil {
				t.Fatal(err)
			}
			if f.retired["earlier-gone"] == outage {
				t.Errorf("retired: %v", f.retired)
			}
			if list, err := f.bridge.Pods.ListLive(ctx); err != nil || len(list) != 1 || list[0].UID != pod.UID {
				t.Errorf("the sweep does not see the pod: %v, %d pods", err, len(list))
			}
			if list := f.bridge.Pods.List(); len(list) != 1 {
				t.Errorf("the bridge sees %d pods", len(list))
			}
			controllertest.Eventually(t, 20*time.Second, func(ctx context.Context) string {
				if _, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, "earlier-gone", metav1.GetOptions{}); err != nil {
					return err.Error()
				}
				n, err := client.CoreV1().Nodes().Get(ctx, "earlier-gone", metav1.GetOptions{})
				if err != nil || !hasTaint(n.Spec.Taints, corev1.Taint{Key: wellknown.TaintUnreachable, Effect: corev1.TaintEffectNoSchedule}) {
					return fmt.Sprintf("nothing keeps new pods away: %v", err)
				}
				return ""
			})
			if outage {
				return
			}
			// An administrator deletes the node: it is back before Kubernetes
			// collects the pods of nodes that do not exist.
			if err := client.CoreV1().Nodes().Delete(ctx, "earlier-gone", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			controllertest.Eventually(t, 35*time.Second, func(ctx context.Context) string {
				if _, err := client.CoreV1().Nodes().Get(ctx, "earlier-gone", metav1.GetOptions{}); err != nil {
					return err.Error()
				}
				return ""
			})
		})
	}
}

func testFront(ctx context.Context, t *testing.T, client kubernetes.Interface, cluster string, system backends.Backend) (*front, *podInformers) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // nothing was served on it
	bcl := &hpcv1alpha1.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: cluster}}
	var bridge *Bridge
	pods := newPodInformers(client, func() { bridge.wake() })
	bridge = NewBridge(Options{
		Cluster: bcl, Owner: cluster, Backend: system, Log: logr.Discard(),
		Pods: &kubePods{client: client, recorder: record.NewFakeRecorder(10), nodes: pods.Nodes, list: pods.List},
	})
	return &front{
		daemon:  &Daemon{Config: Config{Client: client, Source: FileSource{}, Listener: listener, NodeIP: "127.0.0.1", Version: Version, Log: logr.Discard()}},
		cluster: bcl, system: System{Backend: system}, bridge: bridge, pods: pods,
		nodes: newNodeSet(client, logr.Discard()), run: ctx,
	}, pods
}
