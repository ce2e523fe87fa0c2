package cache

import (
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topologyv1 "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func gangOf(t *testing.T, c *Cache, key string) *snapshot.Gang {
	t.Helper()
	for _, g := range c.Snapshot(start).Gangs {
		if g.Key == key {
			return g
		}
	}
	t.Fatalf("no gang %s", key)
	return nil
}

func TestSubGroupsOfPods(t *testing.T) {
	c := New()
	pg := podGroup("g", 4)
	pg.Annotations = map[string]string{"volcano.sh/sla-waiting-time": "90m", "volcano.sh/network-topology-mode": "soft", "volcano.sh/network-topology-highest-tier": "2"}
	pg.Spec.SubGroupPolicy = []volcanov1.SubGroupPolicySpec{
		{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"task": "worker"}}, MatchLabelKeys: []string{"partition"},
			SubGroupSize: ptr.To(int32(2)), MinSubGroups: ptr.To(int32(1)),
			NetworkTopology: &volcanov1.NetworkTopologySpec{HighestTierName: "rack"}},
		{Name: "rest"},
	}
	c.SetGroup(pg)
	for name, of := range map[string]map[string]string{
		"w0": {"task": "worker", "partition": "0"}, "w1": {"task": "worker", "partition": "1"},
		"w2": {"task": "worker"}, "m": {"task": "master", "partition": "0"},
	} {
		p := pod(name, "g", "1")
		p.Labels = of
		p.Annotations["volcano.sh/task-priority"] = "7"
		c.SetPod(p)
	}
	g := gangOf(t, c, "podgroup/ns/g")
	got := map[string]string{}
	for _, p := range g.Pods {
		got[p.Name] = p.PartOf()
		if p.Priority != 7 {
			t.Errorf("pod %s has priority %d", p.Name, p.Priority)
		}
	}
	for name, want := range map[string]string{"w0": "policy-0/0", "w1": "policy-0/1", "w2": "", "m": "rest/"} {
		if got[name] != want {
			t.Errorf("pod %s is of part %q, want %q", name, got[name], want)
		}
	}
	if top := g.Topology; top == nil || top.Hard || top.Tier != 2 {
		t.Errorf("topology %+v", top)
	}
	if sub := g.SubGroups[0]; sub.Size != 2 || sub.Min != 1 || sub.Topology == nil || !sub.Topology.Hard || sub.Topology.TierName != "rack" {
		t.Errorf("sub-group %+v", sub)
	}
	if g.WaitAtMost != int64(90*time.Minute) {
		t.Errorf("waits at most %d", g.WaitAtMost)
	}
}

func TestNativeGroup(t *testing.T) {
	c := New()
	p := pod("p", "", "1")
	p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: ptr.To("g")}
	p.Annotations = map[string]string{"scheduling.volcano.sh/queue-name": "q"}
	c.SetPod(p)
	if g := gangOf(t, c, "native/ns/g"); !g.Absent || !g.Native || g.Waiting != 1 {
		t.Fatalf("before its PodGroup is seen: %+v", g.GangSpec)
	}
	pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "g", UID: "uid-g"}}
	pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 3}
	pg.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{Topology: []schedulingv1beta1.TopologyConstraint{{Key: "rack"}}}
	pg.Spec.Priority, pg.Spec.PriorityClassName = ptr.To(int32(12)), "gone"
	c.SetNativeGroup(pg)
	g := gangOf(t, c, "native/ns/g")
	if g.Absent || !g.Native || g.MinMember != 3 || g.Priority != 12 || g.Topology == nil || g.Topology.Key != "rack" || !g.Topology.Hard {
		t.Fatalf("%+v", g.GangSpec)
	}
	if g.Queue != "q" {
		t.Errorf("it is in queue %s, and its pods name q", g.Queue)
	}
	c.DeleteNativeGroup("ns", "g", "uid-g")
	if g := gangOf(t, c, "native/ns/g"); !g.Absent {
		t.Fatalf("after its PodGroup is gone: %+v", g.GangSpec)
	}
}

func TestHyperNodesFollowNodes(t *testing.T) {
	c := New()
	h := &topologyv1.HyperNode{ObjectMeta: metav1.ObjectMeta{Name: "h", UID: "h"}, Spec: topologyv1.HyperNodeSpec{Tier: 1, Members: []topologyv1.MemberSpec{
		{Type: topologyv1.MemberTypeNode, Selector: topologyv1.MemberSelector{RegexMatch: &topologyv1.RegexMatch{Pattern: "^a"}}},
		{Type: topologyv1.MemberTypeNode, Selector: topologyv1.MemberSelector{LabelMatch: &metav1.LabelSelector{MatchLabels: map[string]string{"rack": "1"}}}},
	}}}
	places := func() string {
		var b strings.Builder
		s := c.Snapshot(start)
		for _, p := range s.Places {
			b.WriteString(p.Name + ":")
			for _, i := range p.Nodes {
				b.WriteString(" " + s.Nodes[i].Name)
			}
		}
		return b.String()
	}
	c.SetNode(node("a1", "4"))
	c.SetNode(node("b1", "4"))
	expect := func(want string) {
		t.Helper()
		if got := places(); got != want {
			t.Fatalf("places %q, want %q", got, want)
		}
	}
	expect("")
	c.SetHyperNode(h)
	expect("h: a1")
	b1 := node("b1", "4")
	b1.Labels = map[string]string{"rack": "1"}
	c.SetNode(b1)
	expect("h: a1 b1")
	c.SetNode(node("a0", "4")) // moves the positions of the others
	expect("h: a0 a1 b1")
	c.DeleteNode("a1", "uid-a1")
	expect("h: a0 b1")
	c.DeleteHyperNode("h", "h")
	expect("")
}

// TestTaskTopologyIsRead reads Volcano's annotations, with blanks and empty parts.
func TestTaskTopologyIsRead(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want        *snapshot.TaskTopology
	}{
		{nil, nil},
		{map[string]string{"volcano.sh/task-topology-affinity": " ; "}, nil},
		{
			map[string]string{"volcano.sh/task-topology-affinity": "ps, worker;chief", "volcano.sh/task-topology-anti-affinity": "ps;", "volcano.sh/task-topology-task-order": "ps,worker"},
			&snapshot.TaskTopology{Together: [][]string{{"ps", "worker"}, {"chief"}}, Apart: [][]string{{"ps"}}, Order: []string{"ps", "worker"}},
		},
	} {
		cached := New()
		cached.SetGroup(&volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "g", UID: "u", Annotations: c.annotations}})
		g := cached.Snapshot(start).Gang("podgroup/n/g")
		if g == nil || !reflect.DeepEqual(g.Tasks, c.want) {
			t.Errorf("%v: %+v, want %+v", c.annotations, g, c.want)
		}
	}
}
