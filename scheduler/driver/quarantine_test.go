package driver_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// allergic is a plugin that cannot stand gangs of a name.
type allergic struct{ to string }

func (allergic) Name() string { return "allergic" }

// Filter panics: the classes of the gangs are told apart by what they ask for.
func (a allergic) Filter(c *snapshot.Class, _ *snapshot.Node) string {
	if c.NodeSelector["name"] == a.to {
		panic("broken by the test")
	}
	return ""
}

// recorder keeps the last plan.
type recorder struct{ last *plan.Plan }

func (r recorder) Carry(p plan.Plan) { *r.last = p }

// TestBrokenGangIsLeftOut has the cycle panic at one gang of three: the others are
// placed in the same cycle, the gang is told why it waits, what it holds stays
// counted, and it is tried again after a while, or at once when it is made anew.
func TestBrokenGangIsLeftOut(t *testing.T) {
	c, now := cache.New(), time.Unix(1_800_000_000, 0)
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: volcanov1.QueueSpec{Weight: 1}})
	offers := corev1.ResourceList{"cpu": kresource.MustParse("8"), "memory": kresource.MustParse("8Gi"), "pods": kresource.MustParse("10")}
	c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", UID: "n", Labels: map[string]string{"name": "bad"}}, Status: corev1.NodeStatus{
		Allocatable: offers, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}})
	group := func(name, uid string) {
		pg := &volcanov1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}, Spec: volcanov1.PodGroupSpec{MinMember: 1, Queue: "default"}}
		pg.Status.Phase = volcanov1.PodGroupInqueue
		c.SetGroup(pg)
	}
	pod := func(name, group, node string, selector map[string]string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: map[string]string{wellknown.PodGroupName: group}}}
		p.Spec = corev1.PodSpec{SchedulerName: "isthmus", NodeName: node, NodeSelector: selector, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": kresource.MustParse("2")}}}}}
		p.Status.Phase = corev1.PodPending
		c.SetPod(p)
	}
	for _, name := range []string{"a", "bad", "z"} {
		group(name, name)
	}
	pod("bad-0", "bad", "n", nil) // has a place already
	bad := map[string]string{"name": "bad"}
	pod("a-0", "a", "", nil)
	pod("bad-1", "bad", "", bad)
	pod("z-0", "z", "", nil)
	var last plan.Plan
	registry := prometheus.NewRegistry()
	pipeline := schedtest.Pipeline()
	pipeline.Plugins = append(pipeline.Plugins, allergic{"bad"})
	d := &driver.Driver{Cache: c, Pipeline: pipeline, Binder: recorder{&last}, Metrics: driver.NewMetrics(registry), Now: func() time.Time { return now }, Timing: driver.DefaultTiming()}
	cycle := func(want string) {
		t.Helper()
		if err := d.Cycle(t.Context()); err != nil {
			t.Fatal(err)
		}
		var placed []string
		for _, pl := range last.Placements {
			placed = append(placed, pl.Name)
		}
		if got := fmt.Sprint(placed); got != want {
			t.Errorf("placed %s, want %s", got, want)
		}
	}
	saysWhy := func() bool {
		for _, s := range last.Statuses {
			for _, cond := range s.Want.Conditions {
				if s.Name == "bad" && cond.Reason == "Quarantined" && strings.Contains(cond.Message, "broken by the test") {
					return true
				}
			}
		}
		return false
	}
	cycle("[a z]")
	if !saysWhy() {
		t.Errorf("the gang is not told why it waits: %+v", last.Statuses)
	}
	if n := c.Quarantined(now); n != 1 {
		t.Errorf("%d gangs are left out", n)
	}
	if used := c.Snapshot(now).Nodes[0].Used(); used[0] != 2000 {
		t.Errorf("the node counts %v in use, want 2 CPUs of the gang that is left out", used)
	}
	cycle("[a z]")
	if saysWhy() {
		t.Error("it was looked at again at once")
	}
	now = now.Add(6 * time.Minute)
	cycle("[a z]")
	if !saysWhy() {
		t.Error("it was not tried again")
	}
	d.Pipeline = schedtest.Pipeline()
	cycle("[a z]")
	c.DeleteGroup("ns", "bad", "bad")
	group("bad", "another")
	cycle("[a z bad]")
	if got := strings.ReplaceAll(gathered(t, registry), "  ", " "); !strings.Contains(got, `help:"Cycles that panicked." type:COUNTER metric:{counter:{value:2`) {
		t.Errorf("panics are not counted: %s", got)
	}
}
