package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/predicates"
)

var record = flag.Bool("record", false, "have kube-scheduler's own filters judge the cases anew")

// judged are the answers of kube-scheduler.
const judged = "testdata/kubescheduler.txt"

// verdictCase is a cluster and a pod, as test/testbed/kubernetes/judge reads it.
type verdictCase struct {
	Namespaces []*corev1.Namespace `json:"namespaces"`
	Nodes      []*corev1.Node      `json:"nodes"`
	Pods       []*corev1.Pod       `json:"pods"`
	Pod        *corev1.Pod         `json:"pod"`
}

// TestAsKubeScheduler: on random clusters a pod may go to exactly those nodes that
// kube-scheduler's own filters let it on: node selector and affinity, taints, cordoning,
// host ports, pod affinity, anti-affinity and spread. Its answers were recorded; after a
// change of the cases, or of the Kubernetes release, run this with -record.
func TestAsKubeScheduler(t *testing.T) {
	var cases []verdictCase
	for seed := range uint64(2000) {
		cases = append(cases, drawCase(rand.New(rand.NewPCG(seed, 9))))
	}
	raw, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(raw))
	if *record {
		recordVerdicts(t, raw, sum)
	}
	text, err := os.ReadFile(judged)
	if err != nil {
		t.Fatal(err)
	}
	of, rest, _ := strings.Cut(string(text), "\n")
	answers := strings.Fields(rest)
	if of != sum || len(answers) != len(cases) {
		t.Fatalf("the %d cases are others than the %d that kube-scheduler judged: run go test ./scheduler/cache -run AsKubeScheduler -record", len(cases), len(answers))
	}
	some := map[byte]int{}
	wrong := 0
	for i, c := range cases {
		got, why := ourVerdict(c)
		if got != answers[i] {
			if wrong++; wrong <= 5 {
				t.Errorf("case %d: we say %s (%q) and kube-scheduler %s of\n%s", i, got, why, answers[i], spelled(c))
			}
		}
		for k := range len(answers[i]) {
			some[answers[i][k]]++
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d cases differ", wrong, len(cases))
	}
	if some['0'] < 500 || some['1'] < 500 {
		t.Errorf("%d nodes are refused and %d are not: the cases show little", some['0'], some['1'])
	}
	t.Logf("%d cases, %d nodes refused and %d not", len(cases), some['0'], some['1'])
}

func recordVerdicts(t *testing.T, cases []byte, sum string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./judge")
	cmd.Dir = "../../test/testbed/kubernetes"
	cmd.Stdin, cmd.Stderr = bytes.NewReader(cases), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var answers []string
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(judged, []byte(sum+"\n"+strings.Join(answers, "\n")+"\n"), 0o644); err != nil { //nolint:gosec // a file of the repository
		t.Fatal(err)
	}
}

// ourVerdict says of each node, in the order of their names, whether the pod may go there.
func ourVerdict(c verdictCase) (verdict string, why []string) {
	world := cache.New()
	for _, ns := range c.Namespaces {
		world.SetNamespace(ns)
	}
	for _, n := range c.Nodes {
		world.SetNode(n)
	}
	for _, p := range c.Pods {
		world.SetPod(p)
	}
	world.SetPod(c.Pod)
	s := world.Snapshot(time.Unix(0, 0))
	txn := s.Begin()
	for _, g := range s.Gangs {
		for _, p := range g.Pods {
			if p.Name != c.Pod.Name {
				continue
			}
			for i, n := range s.Nodes {
				says := predicates.Plugin{}.Filter(p.Class, n)
				if says == "" && txn.Room(i, p.Class, 1) == 0 {
					if says = txn.PeerReason(i, p.Class); says == "" {
						says = "no room"
					}
				}
				verdict += map[bool]string{true: "1", false: "0"}[says == ""]
				why = append(why, says)
			}
		}
	}
	return verdict, why
}

func spelled(c verdictCase) string {
	raw, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// drawer draws parts of a case.
type drawer struct{ *rand.Rand }

func (d drawer) one(of ...string) string { return of[d.IntN(len(of))] }
func (d drawer) odds(n int) bool         { return d.IntN(n) == 0 }

func drawCase(r *rand.Rand) verdictCase {
	d := drawer{r}
	var c verdictCase
	for name, team := range map[string]string{"default": "a", "other": "b", "third": "a"} {
		c.Namespaces = append(c.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team, corev1.LabelMetadataName: name}}})
	}
	slices.SortFunc(c.Namespaces, func(a, b *corev1.Namespace) int { return strings.Compare(a.Name, b.Name) })
	for i := range 2 + d.IntN(4) {
		c.Nodes = append(c.Nodes, d.node(fmt.Sprint("n", i)))
	}
	for i := range d.IntN(16) {
		p := d.pod(fmt.Sprint("p", i))
		p.Spec.SchedulerName = d.one("isthmus", "default-scheduler")
		p.Spec.NodeName = c.Nodes[d.IntN(len(c.Nodes))].Name
		p.Status.Phase = corev1.PodRunning
		if d.odds(6) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Unix(1, 0)}, []string{"a/b"}
		}
		if d.odds(4) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.terms()}}
		}
		c.Pods = append(c.Pods, p)
	}
	c.Pod = d.pod("new")
	c.Pod.Spec.SchedulerName = "isthmus"
	c.Pod.Status.Phase = corev1.PodPending
	d.demands(c.Pod)
	return c
}

func (d drawer) node(name string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{corev1.LabelHostname: name, "cores": d.one("4", "8", "x")}}}
	if !d.odds(8) {
		n.Labels["zone"] = d.one("a", "b", "c")
	}
	if d.odds(2) {
		n.Labels["disk"] = d.one("ssd", "hdd")
	}
	if d.odds(3) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "dedicated", Value: d.one("x", "y"), Effect: corev1.TaintEffect(d.one("NoSchedule", "NoExecute", "PreferNoSchedule"))})
	}
	if d.odds(8) {
		n.Spec.Unschedulable = true
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	}
	n.Status.Allocatable = corev1.ResourceList{"cpu": kresource.MustParse("64"), "memory": kresource.MustParse("64Gi"), "pods": kresource.MustParse("110")}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

func (d drawer) pod(name string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.one("default", "default", "default", "default", "other", "third"), Name: name, UID: types.UID(name), Labels: map[string]string{"app": d.one("x", "x", "y", "y", "z")}}}
	if d.odds(2) {
		p.Labels["tier"] = d.one("1", "2")
	}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("1m")}}}}
	if d.odds(5) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.Protocol(d.one("TCP", "UDP")), HostIP: d.one("", "10.0.0.1", "0.0.0.0")}}
	}
	return p
}

// demands draws what a pod demands of nodes and of other pods: mostly of one kind, so
// that nothing else hides what it comes to.
func (d drawer) demands(p *corev1.Pod) {
	kind := d.IntN(4)
	has := func(k, n int) bool { return kind == k || kind == 3 && d.odds(n) }
	for range d.IntN(4) / 2 {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{
			Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: d.one("x", "y"), Effect: corev1.TaintEffect(d.one("", "NoSchedule", "NoExecute")),
		})
		if last := &p.Spec.Tolerations[len(p.Spec.Tolerations)-1]; d.odds(3) {
			last.Operator, last.Value = corev1.TolerationOpExists, ""
			if d.odds(2) {
				last.Key = d.one("", corev1.TaintNodeUnschedulable)
			}
		}
	}
	if has(0, 5) || kind == 2 && d.odds(3) {
		p.Spec.NodeSelector = map[string]string{"disk": d.one("ssd", "hdd")}
	}
	p.Spec.Affinity = &corev1.Affinity{}
	if has(0, 4) && d.odds(2) || kind == 2 && d.odds(3) {
		p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.nodeSelector()}
	}
	if has(1, 2) && !d.odds(3) {
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.terms()}
	}
	if has(1, 3) && d.odds(2) {
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: d.terms()}
	}
	if has(2, 2) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, d.spread())
		// The API server allows no two of one label.
		if other := d.spread(); d.odds(3) && other.TopologyKey != p.Spec.TopologySpreadConstraints[0].TopologyKey {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, other)
		}
	}
}

func (d drawer) nodeSelector() *corev1.NodeSelector {
	out := &corev1.NodeSelector{}
	for range 1 + d.IntN(2) {
		var term corev1.NodeSelectorTerm
		for range 1 + d.IntN(2) {
			term.MatchExpressions = append(term.MatchExpressions, []corev1.NodeSelectorRequirement{
				{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{d.one("a", "b"), "c"}},
				{Key: "zone", Operator: corev1.NodeSelectorOpNotIn, Values: []string{d.one("a", "b")}},
				{Key: "disk", Operator: corev1.NodeSelectorOpExists},
				{Key: "disk", Operator: corev1.NodeSelectorOpDoesNotExist},
				{Key: "cores", Operator: corev1.NodeSelectorOpGt, Values: []string{"4"}},
				{Key: "cores", Operator: corev1.NodeSelectorOpLt, Values: []string{"8"}},
			}[d.IntN(6)])
		}
		if d.odds(6) {
			term.MatchFields = []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{d.one("n0", "n1")}}}
		}
		out.NodeSelectorTerms = append(out.NodeSelectorTerms, term)
	}
	return out
}

// selector draws one; nil selects nothing and the empty one all.
func (d drawer) selector() *metav1.LabelSelector {
	switch d.IntN(10) {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOperator(d.one("Exists", "DoesNotExist"))}}}
	case 3:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOperator(d.one("In", "NotIn")), Values: []string{"x", "z"}}}}
	case 4:
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": d.one("x", "y"), "tier": "1"}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": d.one("x", "y")}}
}

func (d drawer) terms() []corev1.PodAffinityTerm {
	var out []corev1.PodAffinityTerm
	for range 1 + d.IntN(2) {
		t := corev1.PodAffinityTerm{TopologyKey: d.one("zone", "zone", corev1.LabelHostname, "disk"), LabelSelector: d.selector()}
		switch d.IntN(6) {
		case 0:
			t.Namespaces = []string{d.one("default", "other")}
		case 1:
			t.NamespaceSelector = &metav1.LabelSelector{}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": d.one("a", "b")}}
		case 3:
			t.NamespaceSelector, t.Namespaces = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "b"}}, []string{"third"}
		}
		out = append(out, t)
	}
	return out
}

func (d drawer) spread() corev1.TopologySpreadConstraint {
	t := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + d.IntN(2)), TopologyKey: d.one("zone", corev1.LabelHostname), WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: d.selector()}
	if d.odds(5) {
		t.WhenUnsatisfiable = corev1.ScheduleAnyway
	} else if d.odds(4) {
		t.MinDomains = ptr.To(int32(1 + d.IntN(4)))
	}
	policy := func() *corev1.NodeInclusionPolicy {
		return ptr.To(corev1.NodeInclusionPolicy(d.one("Honor", "Ignore")))
	}
	if d.odds(3) {
		t.NodeAffinityPolicy = policy()
	}
	if !d.odds(3) {
		t.NodeTaintsPolicy = policy()
	}
	if t.LabelSelector != nil && d.odds(4) {
		t.MatchLabelKeys = []string{"tier"}
	}
	return t
}
