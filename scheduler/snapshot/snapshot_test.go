package snapshot_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func rich() *schedtest.World {
	w := schedtest.NewWorld()
	n := schedtest.Real("n1", resource.Quantity{Name: "cpu", Amount: 8000}, resource.Quantity{Name: "pods", Amount: 10})
	n.Labels = map[string]string{"zone": "a"}
	n.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
	w.SetNode(n)
	w.SetNode(schedtest.Virtual("v1", hostshape.Shapes{ExclusiveComponents: true, Shapes: []hostshape.Shape{{Count: 3, Resources: map[string]int64{"cpu": 4000, "nvidia.com/gpu": 4}}}}))
	g := w.AddGang("g", 2)
	g.MinTask = []snapshot.TaskMinimum{{Task: "w", Min: 1}}
	g.MinResources = resource.MakeList(resource.Quantity{Name: "cpu", Amount: 2000})
	g.Status.Conditions = []snapshot.Condition{{Type: "Unschedulable", Status: "True", Reason: "NotEnoughResources", Message: "m"}}
	g.AddPods("w", 2, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1000}), NodeSelector: map[string]string{"zone": "a"}})
	bound := g.AddPods("x", 1, snapshot.ClassSpec{
		Requests:  resource.MakeList(resource.Quantity{Name: "cpu", Amount: 2000}, resource.Quantity{Name: "rdma/hca", Amount: 1}),
		HostPorts: []snapshot.HostPort{{Protocol: "TCP", Port: 80}},
		Affinity: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a", "b"}}}}}},
		Tolerations: []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}},
	})[0]
	bound.Node, bound.Attempt, bound.Size, bound.Rank, bound.Phase = "v1", "a1", 3, 2, snapshot.PodRunning
	return w
}

func TestJSONRoundTrip(t *testing.T) {
	d := rich().Document()
	d.Others = []snapshot.ResidentDoc{{UID: "other", Node: "n1", Class: 0}}
	s, err := d.Build()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := s.Write(&first); err != nil {
		t.Fatal(err)
	}
	again, err := snapshot.Read(bytes.NewReader(first.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Write(&second); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Fatalf("written again it differs:\n%s\n%s", first.String(), second.String())
	}
	for _, want := range []string{`"other"`, `"exclusiveComponents": true`, `"rdma/hca"`, `"attempt": "a1"`, `"NotEnoughResources"`} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("the document lacks %s", want)
		}
	}
	if found := again.Audit(); len(found) > 0 {
		t.Errorf("audit: %v", found)
	}
}

func TestReadIsStrict(t *testing.T) {
	for _, text := range []string{
		`{`, `{"version":2}`, `{"version":1,"extra":1}`,
		`{"version":1,"gangs":[{"key":"k","pods":[{"uid":"u","class":7}]}]}`,
		`{"version":1,"others":[{"uid":"u","class":-1}]}`,
	} {
		if _, err := snapshot.Read(strings.NewReader(text)); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestRollbackRestoresEverything(t *testing.T) {
	s := rich().Snapshot()
	txn := s.Begin()
	state := func() string {
		var b strings.Builder
		for i := range s.Nodes {
			fmt.Fprintln(&b, txn.Free(i))
		}
		return b.String()
	}
	class := s.Gangs[0].Pods[0].Class
	item := []snapshot.Item{{Class: class, Job: "j", Count: 2}}
	real, _ := s.Node("n1")
	virtual, _ := s.Node("v1")
	before := state()
	outer := txn.Checkpoint()
	txn.Put(real, item[0])
	middle := state()
	inner := txn.Checkpoint()
	txn.PutHosts(virtual, item)
	txn.Put(real, item[0])
	if state() == middle || middle == before {
		t.Fatal("placing changed nothing")
	}
	txn.Rollback(inner)
	if got := state(); got != middle {
		t.Fatalf("after the inner rollback\n%swant\n%s", got, middle)
	}
	txn.Rollback(outer)
	if got := state(); got != before {
		t.Fatalf("after the outer rollback\n%swant\n%s", got, before)
	}
	if other := s.Begin(); txn.Room(real, class, 100) != other.Room(real, class, 100) {
		t.Fatal("a transaction changed its snapshot")
	}
}

// TestHugeHostCountsAreNotLooped packs against more hosts than could be counted one by one.
func TestHugeHostCountsAreNotLooped(t *testing.T) {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Virtual("v", hostshape.Shapes{Shapes: []hostshape.Shape{{Count: 1 << 60, Resources: map[string]int64{"cpu": 1 << 60}}}}))
	g := w.AddGang("g", 1)
	g.AddPods("w", 3, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 1 << 60})})
	s := w.Snapshot()
	if fit := s.Begin().TryHosts(0, []snapshot.Item{{Class: s.Gangs[0].Pods[0].Class, Job: "j", Count: 3}}); !fit.Fits {
		t.Fatalf("three pods do not fit: %+v", fit)
	}
}
