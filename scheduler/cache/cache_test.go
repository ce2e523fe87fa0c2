package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func node(name string, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{"cpu": kresource.MustParse(cpu), "pods": kresource.MustParse("110")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func virtualNode(name, shapes string) *corev1.Node {
	n := node(name, "64")
	n.Labels = map[string]string{wellknown.VirtualNode: "true"}
	n.Annotations = map[string]string{wellknown.HostShapes: shapes}
	return n
}

func pod(name, group, cpu string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: metav1.NewTime(start)},
		Spec: corev1.PodSpec{
			SchedulerName: wellknown.SchedulerVolcano,
			Containers:    []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse(cpu)}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if group != "" {
		p.Annotations = map[string]string{wellknown.PodGroupName: group}
	}
	return p
}

func bound(p *corev1.Pod, node, attempt string, size, rank int) *corev1.Pod {
	p = p.DeepCopy()
	p.Spec.NodeName = node
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[wellknown.GangAttempt] = attempt
	p.Annotations[wellknown.GangSize] = fmt.Sprint(size)
	p.Annotations[wellknown.GangRank] = fmt.Sprint(rank)
	return p
}

func podGroup(name string, min int32) *volcanov1.PodGroup {
	return &volcanov1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "10", CreationTimestamp: metav1.NewTime(start)},
		Spec:       volcanov1.PodGroupSpec{MinMember: min, PriorityClassName: "high"},
		Status:     volcanov1.PodGroupStatus{Phase: volcanov1.PodGroupInqueue},
	}
}

func written(t *testing.T, c *Cache) string {
	t.Helper()
	s := c.Snapshot(start)
	if found := append(s.Audit(), c.Audit()...); len(found) > 0 {
		t.Fatalf("audit: %v", found)
	}
	var b bytes.Buffer
	if err := s.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestOrderOfKindsDoesNotMatter replays the same life of a cluster with the
// kinds interleaved in every way, snapshots taken in between or not; the order
// within one object's life is kept, as an informer does.
func TestOrderOfKindsDoesNotMatter(t *testing.T) {
	steps := func(c *Cache) [][]func() {
		a, b := pod("a", "g", "1"), pod("b", "g", "1")
		foreign := pod("f", "", "2")
		foreign.Spec.SchedulerName, foreign.Spec.NodeName = "default-scheduler", "n1"
		gone := bound(pod("gone", "", "1"), "n2", "x", 1, 0)
		again := pod("a", "g", "1")
		again.UID = "uid-a-again"
		done := bound(pod("done", "g", "1"), "v1", "y", 1, 0)
		ended := done.DeepCopy()
		ended.Status.Phase = corev1.PodSucceeded
		return [][]func(){
			{func() { c.SetNode(node("n1", "8")) }, func() { c.SetNode(node("n1", "16")) }},
			{func() { c.SetNode(node("n2", "8")) }, func() { c.DeleteNode("n2", "uid-n2") }, func() { c.DeleteNode("n2", "uid-n2") }},
			{func() {
				c.SetNode(virtualNode("v1", `{"shapes":[{"count":2,"resources":{"cpu":8000,"nvidia.com/gpu":1}}]}`))
			}},
			{func() { c.SetPod(a) }, func() { c.SetPod(bound(a, "v1", "z", 2, 0)) }, func() { c.DeletePod("uid-a") }, func() { c.SetPod(again) }},
			{func() { c.SetPod(b) }, func() { c.SetPod(bound(b, "v1", "z", 2, 1)) }},
			{func() { c.SetPod(foreign) }},
			{func() { c.SetPod(gone) }, func() { c.DeletePod("uid-gone") }, func() { c.DeletePod("uid-gone") }},
			{func() { c.SetPod(done) }, func() { c.SetPod(ended) }},
			{func() { c.SetGroup(podGroup("g", 1)) }, func() { c.SetGroup(podGroup("g", 2)) }},
			{func() { c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default", UID: "q"}}) }},
			{func() {
				c.SetPriorityClass(&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 7})
			}},
		}
	}
	want := ""
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := New()
		lives := steps(c)
		for {
			var open []int
			for i := range lives {
				if len(lives[i]) > 0 {
					open = append(open, i)
				}
			}
			if len(open) == 0 {
				break
			}
			i := open[r.IntN(len(open))]
			lives[i][0]()
			lives[i] = lives[i][1:]
			if r.IntN(3) == 0 {
				written(t, c)
			}
		}
		got := written(t, c)
		if want == "" {
			want = got
			for _, needed := range []string{`"priority": 7`, `"minMember": 2`, `"uid-a-again"`, `"attempt": "z"`} {
				if !strings.Contains(got, needed) {
					t.Fatalf("the snapshot lacks %s:\n%s", needed, got)
				}
			}
		}
		if got != want {
			t.Fatalf("seed %d gives another snapshot:\n%s\nwant\n%s", seed, got, want)
		}
	}
}

func gangPod(t *testing.T, c *Cache, name string) *snapshot.Pod {
	t.Helper()
	for _, g := range c.Snapshot(start).Gangs {
		for _, p := range g.Pods {
			if p.Name == name {
				return p
			}
		}
	}
	t.Fatalf("no pod %s", name)
	return nil
}

func used(t *testing.T, c *Cache, name string) string {
	t.Helper()
	s := c.Snapshot(start)
	i, ok := s.Node(name)
	if !ok {
		t.Fatalf("no node %s", name)
	}
	return fmt.Sprint(len(s.Nodes[i].Residents), " ", s.Begin().FreeOf(i, 0))
}

func TestAssumptions(t *testing.T) {
	c := New()
	c.SetNode(node("n1", "8"))
	p := pod("a", "", "2")
	c.SetPod(p)
	a := Assumption{Node: "n1", Attempt: "x", Size: 1, Rank: 0}
	if !c.Assume("uid-a", a) || used(t, c, "n1") != "1 6000" || gangPod(t, c, "a").Attempt != "x" {
		t.Fatalf("assumed: %s, %+v", used(t, c, "n1"), gangPod(t, c, "a"))
	}
	c.SetPod(withLabel(p)) // a late event of the unbound pod takes nothing back
	if got := used(t, c, "n1"); got != "1 6000" {
		t.Fatalf("after a late event: %s", got)
	}
	c.Confirm("uid-a", start.Add(time.Minute))
	if got := c.Overdue(start.Add(30 * time.Second)); len(got) != 0 {
		t.Fatalf("overdue early: %v", got)
	}
	c.SetPod(bound(p, "n1", "x", 1, 0))
	if c.Assumed() != 0 || used(t, c, "n1") != "1 6000" {
		t.Fatalf("shown by the watch: %d assumed, %s", c.Assumed(), used(t, c, "n1"))
	}

	c.SetPod(pod("b", "", "2"))
	c.Assume("uid-b", Assumption{Node: "n1"})
	c.Forget("uid-b")
	if got := used(t, c, "n1"); got != "1 6000" {
		t.Fatalf("forgotten: %s", got)
	}
	c.Assume("uid-b", Assumption{Node: "n1"})
	c.Confirm("uid-b", start.Add(time.Minute))
	if got := c.Overdue(start.Add(2 * time.Minute)); len(got) != 1 || used(t, c, "n1") != "2 4000" {
		t.Fatalf("overdue: %v, %s", got, used(t, c, "n1")) // the watch may be behind
	}
	if got := c.Overdue(start.Add(2 * time.Minute)); len(got) != 0 || fmt.Sprint(c.Doubted()) != "[{uid-b ns b n1}]" {
		t.Fatalf("overdue again: %v; doubted: %v", got, c.Doubted())
	}
	c.Confirm("uid-b", start.Add(3*time.Minute))
	if got := c.Doubted(); len(got) != 0 {
		t.Fatalf("doubted after it was confirmed again: %v", got)
	}
	c.Forget("uid-b")
	if c.Assume("uid-nobody", a) || c.Assume("uid-a", a) {
		t.Fatal("assumed a pod that is gone or bound")
	}
	c.SetPod(pod("b", "", "2"))
	c.Assume("uid-b", Assumption{Node: "n1"})
	c.DeletePod("uid-b")
	if c.Assumed() != 0 || used(t, c, "n1") != "1 6000" {
		t.Fatalf("deleted while assumed: %d, %s", c.Assumed(), used(t, c, "n1"))
	}
}

func withLabel(p *corev1.Pod) *corev1.Pod {
	p = p.DeepCopy()
	p.Labels = map[string]string{"l": "v"}
	return p
}

func TestWhatHoldsResources(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"running", func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, "1 6000"},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "0 8000"},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "0 8000"},
		{"deleted with a finalizer, its job not ended", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: start}, []string{wellknown.FinalizerBatchJob}
		}, "1 6000"},
		{"deleted and failed", func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Status.Phase = &metav1.Time{Time: start}, corev1.PodFailed
		}, "0 8000"},
		{"of another scheduler", func(p *corev1.Pod) { p.Spec.SchedulerName = "default-scheduler" }, "1 6000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := New()
			c.SetNode(node("n1", "8"))
			p := bound(pod("a", "", "2"), "n1", "x", 1, 0)
			tt.change(p)
			c.SetPod(p)
			if got := used(t, c, "n1"); got != tt.want {
				t.Errorf("pods and free CPU are %s, want %s", got, tt.want)
			}
		})
	}
}

func TestOnlyWhatChangedIsRebuilt(t *testing.T) {
	c := New()
	c.SetNode(node("n1", "8"))
	c.SetNode(node("n2", "8"))
	c.SetGroup(podGroup("g", 1))
	c.SetPod(pod("a", "g", "1"))
	first := c.Snapshot(start)
	c.SetNode(node("n1", "8")) // a heartbeat
	c.SetPod(bound(pod("b", "", "1"), "n2", "x", 1, 0))
	second := c.Snapshot(start)
	if first.Nodes[0] != second.Nodes[0] {
		t.Error("an unchanged node was rebuilt")
	}
	if first.Nodes[1] == second.Nodes[1] {
		t.Error("a changed node was not rebuilt")
	}
	if first.Gangs[0] != second.Gangs[1] {
		t.Error("an unchanged gang was rebuilt")
	}
	gpus := node("n3", "8")
	gpus.Status.Allocatable["nvidia.com/gpu"] = kresource.MustParse("8")
	c.SetNode(gpus) // a new resource name
	if s := c.Snapshot(start); len(s.Audit()) > 0 || s.Dims.Len() != second.Dims.Len()+1 {
		t.Errorf("with a new resource name: %v", s.Audit())
	}
}

func TestWrittenStatusStandsUntilTheWatchShowsIt(t *testing.T) {
	c := New()
	c.SetGroup(podGroup("g", 1))
	newer := podGroup("g", 1)
	newer.ResourceVersion, newer.Status.Phase = "12", volcanov1.PodGroupRunning
	c.StatusWritten("podgroup/ns/g", "uid-g", newer)
	phase := func() string { return c.Snapshot(start).Gangs[0].Status.Phase }
	if got := phase(); got != "Running" {
		t.Fatalf("after writing: %s", got)
	}
	between := podGroup("g", 1)
	between.ResourceVersion, between.Labels = "11", map[string]string{"l": "v"}
	c.SetGroup(between)
	if got := phase(); got != "Running" {
		t.Fatalf("after an older event: %s", got)
	}
	shown := newer.DeepCopy()
	shown.ResourceVersion, shown.Status.Phase = "13", volcanov1.PodGroupUnknown
	c.SetGroup(shown)
	if got := phase(); got != "Unknown" {
		t.Fatalf("after a newer event: %s", got)
	}
	c.StatusWritten("podgroup/ns/g", "uid-g", newer)
	if got := phase(); got != "Unknown" {
		t.Fatalf("a late answer of an older write: %s", got)
	}
	c.StatusWritten("podgroup/ns/g", "uid-other", newer)
	if got := phase(); got != "Unknown" {
		t.Fatalf("an answer about another object: %s", got)
	}
}

func TestHoldEnds(t *testing.T) {
	c := New()
	c.SetGroup(podGroup("g", 1))
	c.Hold("podgroup/ns/g", "refused", start.Add(time.Second))
	if got := c.Snapshot(start).Gangs[0].Hold; got != "refused" {
		t.Fatalf("held: %q", got)
	}
	if got := c.Snapshot(start.Add(time.Second)).Gangs[0].Hold; got != "" {
		t.Fatalf("still held: %q", got)
	}
}

func TestConversionOfPods(t *testing.T) {
	p := pod("a", "g", "1")
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "kubernetes.io/hostname"}}}}
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, HostIP: "0.0.0.0"}}
	p.Annotations[wellknown.GangAttempt] = "forged"
	p.Annotations[wellknown.GangSize] = "-3"
	p.Annotations["volcano.sh/task-index"] = "11"
	p.Annotations[wellknown.After] = "one,two"
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x"}}
	e := newPodEntry(p, true)
	if e.spec.Unsupported != "" || e.spec.Peers == nil || len(e.spec.Peers.Apart) != 1 || len(e.spec.HostPorts) != 1 || e.spec.HostPorts[0].IP != "" || e.pod.Attempt != "" || e.pod.Size != 0 || e.pod.Index != 11 || !e.pod.Gated || !slices.Equal(e.pod.After, []string{"one", "two"}) {
		t.Errorf("%+v", e)
	}
	if broken := nodeSpec(virtualNode("v", "not json")); broken.Broken == "" || broken.Shapes != nil {
		t.Errorf("broken shapes: %+v", broken)
	}
}

// What a virtual node tells of the namespaces that it serves counts, with their
// labels; what cannot be read keeps nobody away.
func TestServedNamespacesAreRead(t *testing.T) {
	c := New()
	n := virtualNode("v", `{"shapes":[]}`)
	n.Annotations[wellknown.ServedNamespaces] = `["team=a"]`
	c.SetNode(n)
	broken := virtualNode("w", `{"shapes":[]}`)
	broken.Annotations[wellknown.ServedNamespaces] = `["team=="`
	c.SetNode(broken)
	for name, team := range map[string]string{"one": "a", "two": "b"} {
		c.SetNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}})
	}
	s := c.Snapshot(start)
	for i, want := range []map[string]bool{{"one": true, "two": false}, {"one": true, "two": true}} {
		for ns, serves := range want {
			if got := s.Serves(i, ns); got != serves {
				t.Errorf("%s serves %s: %v", s.Nodes[i].Name, ns, got)
			}
		}
	}
}
