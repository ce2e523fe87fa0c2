package allocate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestFirstIsTheMinimum: of gangs with a shape it is their first members that have to be placed
// together, and the shape is that of those.
func TestFirstIsTheMinimum(t *testing.T) {
	dims := snapshot.DimsOf(nil)
	var classes []*snapshot.Class
	for i := range int64(6) {
		spec := snapshot.ClassSpec{Namespace: fmt.Sprint(i)}
		classes = append(classes, snapshot.NewClass(spec, spec.Key(), dims))
	}
	gone := snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "none", Amount: 1})}
	classes = append(classes, snapshot.NewClass(gone, gone.Key(), dims))
	shaped := 0
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 0))
		some := func() bool { return r.IntN(12) == 0 }
		spec := snapshot.GangSpec{Loose: some(), Absent: some()}
		var pods []*snapshot.Pod
		for task := range 1 + r.IntN(3) {
			n := 1 + r.IntN(3)
			class := classes[r.IntN(len(classes))]
			for i := range n {
				p := &snapshot.Pod{UID: fmt.Sprint(len(pods)), Name: fmt.Sprint(len(pods)), Task: fmt.Sprint(task), Index: int64(i), Phase: snapshot.PodPending, Class: class}
				p.Terminating, p.Gated = r.IntN(60) == 0, r.IntN(60) == 0
				if r.IntN(60) == 0 {
					p.Node = "n"
				}
				if r.IntN(20) == 0 {
					p.Priority = 1
				}
				pods = append(pods, p)
			}
			if r.IntN(3) == 0 {
				spec.MinTask = append(spec.MinTask, snapshot.TaskMinimum{Task: fmt.Sprint(task), Min: int64(1 + r.IntN(n+1))})
			}
		}
		spec.MinMember = int64(r.IntN(len(pods) + 2))
		g := snapshot.NewGang(spec, pods, dims)
		shape, ok := g.Shape()
		if !ok {
			continue
		}
		shaped++
		var waiting []*snapshot.Pod
		for _, p := range g.Pods {
			if p.Waits() {
				waiting = append(waiting, p)
			}
		}
		slices.SortStableFunc(waiting, snapshot.ComparePlacing)
		must, why := minimum(g, waiting, g.Have(), nil)
		if why != nil || !slices.Equal(must, g.First()) {
			t.Fatalf("seed %d: of %d members %d have to be placed together, and %d are the first: %v", seed, len(pods), len(must), len(g.First()), why)
		}
		at := 0
		for _, m := range shape.Value() {
			for range m.Count {
				if must[at].Class != m.Class || len(m.Class.Missing) > 0 {
					t.Fatalf("seed %d: member %d is of another class", seed, at)
				}
				at++
			}
		}
		if at != len(must) {
			t.Errorf("seed %d: the shape is of %d members, want %d", seed, at, len(must))
		}
	}
	if shaped < 500 {
		t.Errorf("%d gangs have a shape", shaped)
	}
}
