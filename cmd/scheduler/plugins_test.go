package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	nodeinfov1 "volcano.sh/apis/pkg/apis/nodeinfo/v1alpha1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	"volcano.sh/apis/pkg/client/clientset/versioned"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// extension is an extender that knows pods and nodes by what Volcano sends of them:
// it keeps all pods of a namespace off node p-a.
func extension(t *testing.T, namespace string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Task struct{ Pod *corev1.Pod }   `json:"task"`
			Node struct{ Node *corev1.Node } `json:"node"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.URL.Path != "/predicate" || q.Task.Pod == nil || q.Node.Node == nil {
			http.Error(w, fmt.Sprint("bad question: ", err), http.StatusBadRequest)
			return
		}
		if q.Task.Pod.Namespace == namespace && q.Node.Node.Name == "p-a" {
			fmt.Fprint(w, `{"status":"this node is not for plugins"}`)
			return
		}
		fmt.Fprint(w, `{}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// loads is a Prometheus in which node p-b is busy.
func loads(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"instance":"p-b:9100"},"value":[1,"95"]},{"metric":{"instance":"p-c:9100"},"value":[1,"5"]}]}}`)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// realNode makes a ready node with processors.
func realNode(t *testing.T, plane *controllertest.Plane, name, cpu string) {
	t.Helper()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := plane.Client.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	offers := corev1.ResourceList{"cpu": kresource.MustParse(cpu), "memory": kresource.MustParse("64Gi"), "pods": kresource.MustParse("110")}
	n.Status = corev1.NodeStatus{Allocatable: offers, Capacity: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
	if err := plane.Client.Status().Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	n.Spec.Taints = nil // that of a new node, which a node controller would take off
	if err := plane.Client.Update(t.Context(), n); err != nil {
		t.Fatal(err)
	}
}

// scene is where the gangs of one test are.
type scene struct {
	plane     *controllertest.Plane
	namespace string
}

// gang makes a PodGroup with pods of tasks, each of one processor.
func (s scene) gang(t *testing.T, name string, annotations map[string]string, tasks ...string) {
	t.Helper()
	g := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name, Annotations: annotations}, Spec: volcanov1.PodGroupSpec{MinMember: int32(len(tasks)), Queue: "default"}} //nolint:gosec // a few
	if err := s.plane.Client.Create(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	one := corev1.ResourceList{"cpu": kresource.MustParse("1"), "memory": kresource.MustParse("1Gi")}
	for i, task := range tasks {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: fmt.Sprintf("%s-%s-%d", name, task, i), Annotations: map[string]string{wellknown.PodGroupName: name, "volcano.sh/task-spec": task}},
			Spec:       corev1.PodSpec{SchedulerName: wellknown.SchedulerVolcano, Containers: []corev1.Container{{Name: "c", Image: "none", Resources: corev1.ResourceRequirements{Requests: one, Limits: one}}}},
		}
		if task == "pictured" {
			p.Spec.Containers[0].Image = "big"
		}
		if task == "whole" {
			p.Annotations[volcanov1.NumaPolicyKey] = "single-numa-node"
		}
		if err := s.plane.Client.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
}

// placed waits until all pods of a gang are bound and returns where, by pod.
func (s scene) placed(t *testing.T, r *runner, name string, size int) map[string]*corev1.Pod {
	t.Helper()
	for deadline := time.After(patience); ; {
		var pods corev1.PodList
		err := s.plane.Client.List(t.Context(), &pods, client.InNamespace(s.namespace))
		out := map[string]*corev1.Pod{}
		for i := range pods.Items {
			if p := &pods.Items[i]; strings.HasPrefix(p.Name, name+"-") && p.Spec.NodeName != "" {
				out[p.Name] = p
			}
		}
		if err == nil && len(out) == size {
			return out
		}
		select {
		case <-deadline:
			t.Fatalf("%d of %d pods of %s are bound, %v; the log ends with\n%s", len(out), size, name, err, r.Tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// TestPluginsOfVolcanosConfiguration runs the whole program with plugins that ask
// others: of three nodes an extender refuses one, another is too busy by what
// Prometheus says, and pods of a gang go by their tasks, by NUMA nodes and to their image.
func TestPluginsOfVolcanosConfiguration(t *testing.T) {
	plane := shared(t)
	s := scene{plane, plane.Namespace(t)}
	t.Cleanup(func() { clear(t, plane, s.namespace) })
	for _, name := range []string{"p-a", "p-b", "p-c", "p-d"} {
		realNode(t, plane, name, "4")
	}
	numa := &nodeinfov1.Numatopology{ObjectMeta: metav1.ObjectMeta{Name: "p-d"}, Spec: nodeinfov1.NumatopoSpec{
		Policies:   map[nodeinfov1.PolicyName]string{nodeinfov1.CPUManagerPolicy: "static", nodeinfov1.TopologyManagerPolicy: "single-numa-node"},
		NumaResMap: map[string]nodeinfov1.ResourceInfo{"cpu": {Allocatable: "1-3", Capacity: 4}},
		CPUDetail:  map[string]nodeinfov1.CPUInfo{"0": {}, "1": {}, "2": {NUMANodeID: 1}, "3": {NUMANodeID: 1}},
	}}
	volcano, err := versioned.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := volcano.NodeinfoV1alpha1().Numatopologies().Create(t.Context(), numa, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "volcano-scheduler.conf")
	text := fmt.Sprintf(`
actions: "enqueue, allocate, backfill"
tiers:
- plugins:
  - name: priority
  - name: gang
- plugins:
  - name: predicates
  - name: usage
    arguments: {thresholds: {cpu: 80}}
  - name: task-topology
    arguments: {task-topology.weight: 10}
  - name: network-topology-aware
  - name: numa-aware
  - name: nodeorder
    arguments: {imagelocality.weight: 1000, leastrequested.weight: 0, balancedresource.weight: 0}
  - name: extender
    arguments: {extender.urlPrefix: %q, extender.predicateVerb: predicate, extender.httpTimeout: 30s}
metrics: {type: prometheus, address: %q, interval: 1s}
`, extension(t, s.namespace), loads(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, plane, fate{}, "--leader-elect=false", "--scheduler-conf="+conf)
	// Until nodes are measured a pod may go to the busy one.
	for deadline := time.After(patience); !strings.Contains(r.Tail(), "scheduler runs"); {
		select {
		case <-deadline:
			t.Fatalf("the scheduler does not run:\n%s", r.Tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
	// Only one node has a kubelet of the pod's policy, and it tells what was given.
	s.gang(t, "numa", nil, "whole")
	for name, p := range s.placed(t, r, "numa", 1) {
		if p.Spec.NodeName != "p-d" || p.Annotations[wellknown.TopologyDecision] != `{"numa":{"0":{"cpu":"1"}}}` {
			t.Errorf("%s is on %s with %v", name, p.Spec.NodeName, p.Annotations)
		}
		if err := plane.Client.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
			t.Fatal(err)
		}
	}
	s.gang(t, "apart", map[string]string{wellknown.TaskTopologyAntiAffinity: "server"}, "server", "server")
	nodes := map[string]bool{}
	for name, p := range s.placed(t, r, "apart", 2) {
		nodes[p.Spec.NodeName] = true
		if p.Spec.NodeName == "p-a" {
			t.Errorf("%s is on the node that the extender refuses", name)
		}
	}
	if len(nodes) != 2 {
		t.Errorf("pods that want to be apart are on %v", nodes)
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("probe%d", i)
		s.gang(t, name, nil, "w")
		node := ""
		for _, p := range s.placed(t, r, name, 1) {
			node = p.Spec.NodeName
			if node == "p-a" {
				t.Fatalf("%s is on the node that the extender refuses", name)
			}
			if err := plane.Client.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
		if node == "p-c" && i > 0 {
			break // the one that is measured and idle
		}
		if i > 200 {
			t.Fatalf("the loads of nodes do not count; the log ends with\n%s", r.Tail())
		}
	}
	var d corev1.Node
	if err := plane.Client.Get(t.Context(), client.ObjectKey{Name: "p-d"}, &d); err != nil {
		t.Fatal(err)
	}
	d.Status.Images = []corev1.ContainerImage{{Names: []string{"big:latest"}, SizeBytes: 1000 << 20}}
	if err := plane.Client.Status().Update(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // the node may be seen after the pod
		name := fmt.Sprintf("image%d", i)
		s.gang(t, name, nil, "pictured")
		node := ""
		for _, p := range s.placed(t, r, name, 1) {
			node = p.Spec.NodeName
			if err := plane.Client.Delete(t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		}
		if node == "p-d" {
			break
		}
		if i > 200 {
			t.Fatalf("pods are not where their image is but on %s; the log ends with\n%s", node, r.Tail())
		}
	}
	s.gang(t, "idle", nil, "w", "w")
	for name, p := range s.placed(t, r, "idle", 2) {
		if p.Spec.NodeName == "p-a" || p.Spec.NodeName == "p-b" {
			t.Errorf("%s is on %s, which is refused or too busy", name, p.Spec.NodeName)
		}
	}
}
