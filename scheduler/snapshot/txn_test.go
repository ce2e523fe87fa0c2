package snapshot_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// full is one real node and one virtual node, both full of pods of one gang.
func full() (*snapshot.Snapshot, *snapshot.Class) {
	w := schedtest.NewWorld()
	cpu := resource.Quantity{Name: "cpu", Amount: 4000}
	w.SetNode(schedtest.Real("n1", cpu, resource.Quantity{Name: "pods", Amount: 10}))
	w.SetNode(schedtest.Virtual("v1", hostshape.Shapes{Shapes: []hostshape.Shape{{Count: 2, Resources: map[string]int64{"cpu": 2000}}}}))
	g := w.AddGang("g", 1)
	for i, p := range g.AddPods("w", 4, snapshot.ClassSpec{
		Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: 2000}), HostPorts: []snapshot.HostPort{{Protocol: "TCP", Port: int32(80)}},
	}) {
		p.Node, p.Attempt = []string{"n1", "v1"}[i%2], "a"
	}
	s := w.Snapshot()
	return s, s.Gangs[0].Pods[0].Class
}

func TestRemoveUndoesPlacing(t *testing.T) {
	s, class := full()
	txn := s.Begin()
	item := snapshot.Item{Class: class, Job: "a", Count: 1}
	real, _ := s.Node("n1")
	virtual, _ := s.Node("v1")
	if room := txn.Room(real, class, 5); room != 0 || txn.TryHosts(virtual, []snapshot.Item{item}).Fits {
		t.Fatalf("full nodes have room: %d", room)
	}
	mark := txn.Checkpoint()
	txn.Remove(real, item)
	if room := txn.Room(real, class, 5); room != 0 {
		t.Fatalf("the port of the other pod is free: %d", room)
	}
	txn.Remove(real, item)
	txn.Remove(virtual, item)
	if room := txn.Room(real, class, 5); room != 1 || !txn.TryHosts(virtual, []snapshot.Item{item}).Fits {
		t.Fatalf("no room after removing: %d", room)
	}
	txn.Rollback(mark)
	if room := txn.Room(real, class, 5); room != 0 || txn.TryHosts(virtual, []snapshot.Item{item}).Fits {
		t.Fatalf("room is left after the rollback: %d", room)
	}
}

func TestGuardsLimitAndFollow(t *testing.T) {
	s, class := full()
	txn, future := s.Begin(), s.Begin()
	item := snapshot.Item{Class: class, Job: "a", Count: 2}
	real, _ := s.Node("n1")
	virtual, _ := s.Node("v1")
	one := snapshot.Item{Class: class, Job: "b", Count: 1}
	txn.Remove(real, item)
	txn.Remove(virtual, item)
	txn.Guard(future)
	if room := txn.Room(real, class, 5); room != 0 {
		t.Fatalf("the guard has no room and the transaction says %d", room)
	}
	if fit := txn.TryHosts(virtual, []snapshot.Item{one}); fit.Fits || !fit.Guarded {
		t.Fatalf("the guard has no hosts: %+v", fit)
	}
	future.Remove(real, item)
	mark := txn.Checkpoint()
	txn.Put(real, one)
	if free := future.FreeOf(real, 0); free != 2000 {
		t.Fatalf("the guard has %d free after placing", free)
	}
	txn.Rollback(mark)
	if free := future.FreeOf(real, 0); free != 4000 {
		t.Fatalf("the guard has %d free after the rollback", free)
	}
	fork := txn.Fork()
	fork.Put(real, one)
	if a, b := txn.FreeOf(real, 0), fork.FreeOf(real, 0); a != 4000 || b != 2000 {
		t.Fatalf("the original has %d free and the fork %d", a, b)
	}
}
