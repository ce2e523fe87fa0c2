package entitlement_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

const gpu = "nvidia.com/gpu"

func gpus(n int64) resource.List { return resource.MakeList(resource.Quantity{Name: gpu, Amount: n}) }

// world has one node of n GPUs and no queues.
func world(n int64) *schedtest.World {
	w := schedtest.NewWorld()
	w.Queues = nil
	w.SetNode(schedtest.Real("n1", resource.Quantity{Name: gpu, Amount: n}, resource.Quantity{Name: "pods", Amount: 1000}))
	return w
}

// holds lets a gang of one pod of a queue hold GPUs; wants lets one ask for them.
func holds(w *schedtest.World, queue string, n int64) {
	g := w.AddGang(fmt.Sprintf("%s-h%d", queue, len(w.Gangs)), 1)
	g.Queue = queue
	for _, p := range g.AddPods("w", 1, snapshot.ClassSpec{Requests: gpus(n)}) {
		p.Node, p.Phase = "n1", snapshot.PodRunning
	}
}

func wants(w *schedtest.World, queue string, n int64) {
	g := w.AddGang(fmt.Sprintf("%s-w%d", queue, len(w.Gangs)), 1)
	g.Queue = queue
	g.AddPods("w", 1, snapshot.ClassSpec{Requests: gpus(n)})
}

// told writes what the queues deserve of GPUs, in the order of the tree.
func told(s *snapshot.Snapshot, o entitlement.Options) string {
	l := entitlement.New(s, o)
	d, _ := s.Dims.Index(gpu)
	var out []string
	for _, q := range l.Queues() {
		if !q.Root() && !q.Own {
			out = append(out, fmt.Sprintf("%s=%d", q.Name, q.Deserved[d]))
		}
	}
	return strings.Join(out, " ")
}

func TestWaterFindsItsLevelByWeight(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*schedtest.World)
		want string
	}{
		{"by weight", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}}
			wants(w, "a", 100)
			wants(w, "b", 100)
		}, "a=3 b=9"},
		{"what one does not want goes to the others", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{{Name: "a", Weight: 1}, {Name: "b", Weight: 3}, {Name: "c", Weight: 2}}
			wants(w, "a", 100)
			wants(w, "b", 2)
			wants(w, "c", 100)
		}, "a=4 b=2 c=6"}, // 10 by 1:2, the unit that does not divide to the first
		{"a guarantee is kept by those who do not use it", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{{Name: "a", Weight: 1, Guarantee: gpus(5)}, {Name: "b", Weight: 1}}
			wants(w, "b", 100)
		}, "a=5 b=7"},
		{"a capability bounds", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{{Name: "a", Weight: 9, Capability: gpus(4)}, {Name: "b", Weight: 1}}
			wants(w, "a", 100)
			wants(w, "b", 100)
		}, "a=4 b=8"},
		{"from the root down", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{
				{Name: "eng", Weight: 2}, {Name: "dev", Parent: "eng", Weight: 1}, {Name: "test", Parent: "eng", Weight: 3}, {Name: "ops", Weight: 1},
			}
			for _, q := range []string{"dev", "test", "ops"} {
				wants(w, q, 100)
			}
		}, "eng=8 dev=2 test=6 ops=4"},
		{"annotations", func(w *schedtest.World) {
			w.Queues = []snapshot.Queue{
				{Name: "dev", Weight: 1, Hierarchy: "root/eng/dev", HierarchyWeights: "1/2/1"},
				{Name: "ops", Weight: 1, Hierarchy: "root/ops", HierarchyWeights: "1/1"},
				{Name: "test", Weight: 1, Hierarchy: "root/eng/test", HierarchyWeights: "1/2/3"},
			}
			for _, q := range []string{"dev", "test", "ops"} {
				wants(w, q, 100)
			}
		}, "ops=4 root/eng=8 dev=2 test=6"},
	} {
		w := world(12)
		tt.make(w)
		if got := told(w.Snapshot(), entitlement.Options{Annotations: true}); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestDeclaredIsWhatTheQueuesSay(t *testing.T) {
	w := world(12)
	w.Queues = []snapshot.Queue{
		{Name: "a", Deserved: gpus(5), Guarantee: gpus(2)},
		{Name: "b", Deserved: gpus(3), Guarantee: gpus(4)}, // guaranteed more than it says it deserves
		{Name: "c"},
	}
	if got, want := told(w.Snapshot(), entitlement.Options{Mode: entitlement.Declared}), "a=5 b=4 c=0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	w.Queues[0].Deserved = gpus(40)
	w.Queues[1].Deserved, w.Queues[1].Guarantee = gpus(12), nil
	l := entitlement.New(w.Snapshot(), entitlement.Options{Mode: entitlement.Declared})
	if len(l.Faults) != 1 || l.Faults[0].Reason != entitlement.DeservedAboveParent || l.Faults[0].Stops {
		t.Errorf("faults are %+v", l.Faults)
	}
}

func TestRefusals(t *testing.T) {
	w := world(12)
	w.Queues = []snapshot.Queue{
		{Name: "team", Weight: 1, Capability: gpus(6)}, {Name: "a", Parent: "team", Weight: 1}, {Name: "b", Parent: "team", Weight: 1},
		{Name: "night", Weight: 1, Guarantee: gpus(4)},
	}
	holds(w, "a", 3)
	holds(w, "b", 2)
	holds(w, "night", 1)
	s := w.Snapshot()
	l := entitlement.New(s, entitlement.Options{})
	need := func(n int64) resource.Vector { v, _ := s.Dims.Vector(gpus(n)); return v }
	if r := l.Refuses("a", need(1)); r != nil {
		t.Errorf("one more is refused: %s", r.Words())
	}
	if r := l.Refuses("a", need(2)); r == nil || r.Words() != `queue "team" may hold 6 nvidia.com/gpu and holds 5; the gang needs 2` {
		t.Errorf("two more: %+v", r)
	}
	// Of 12, 6 are held and 3 kept for night.
	w.Queues[0].Capability = nil
	l = entitlement.New(w.Snapshot(), entitlement.Options{})
	if r := l.Refuses("b", need(4)); r == nil || r.Words() != `queue "team" holds 5 of nvidia.com/gpu and 3 are left for it, the rest is guaranteed to "night"; the gang needs 4` {
		t.Errorf("the guarantee is touched: %+v", r)
	}
	if r := l.Refuses("night", need(3)); r != nil {
		t.Errorf("what is guaranteed is refused: %s", r.Words())
	}
	fork := l.Fork()
	fork.Take("b", need(3), 1)
	if r := fork.Refuses("b", need(1)); r == nil {
		t.Error("a fourth after three was not refused")
	}
	if r := l.Refuses("b", need(3)); r != nil {
		t.Errorf("the fork's counting shows in the ledger: %s", r.Words())
	}
}

func TestOverAndEntitled(t *testing.T) {
	w := world(12)
	w.Queues = []snapshot.Queue{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}}
	holds(w, "a", 10)
	wants(w, "b", 8)
	s := w.Snapshot()
	l := entitlement.New(s, entitlement.Options{})
	d, _ := s.Dims.Index(gpu)
	if q := l.Queue("a"); !q.Over() || q.Excess()[d] != 4 {
		t.Errorf("a holds 10 and deserves %d", q.Deserved[d])
	}
	for n, want := range map[int64]bool{6: true, 7: false} {
		v, _ := s.Dims.Vector(gpus(n))
		if got := l.Entitled("b", v); got != want {
			t.Errorf("entitled to %d is %v", n, got)
		}
	}
	if x, y := l.Branches("a", "b"); x.Name != "a" || y.Name != "b" {
		t.Errorf("branches are %s and %s", x.Name, y.Name)
	}
}

func TestBadTreesAreToldAndDoNoHarm(t *testing.T) {
	w := world(12)
	w.Queues = []snapshot.Queue{
		{Name: "a", Parent: "b"}, {Name: "b", Parent: "c"}, {Name: "c", Parent: "a"}, {Name: "d", Parent: "a"},
		{Name: "lost", Parent: "nowhere"}, {Name: "self", Parent: "self"},
		{Name: "greedy", Guarantee: gpus(100)},
		{Name: "odd", Hierarchy: "root/x", HierarchyWeights: "1"},
		{Name: "well"},
	}
	l := entitlement.New(w.Snapshot(), entitlement.Options{Annotations: true})
	var got []string
	for _, f := range l.Faults {
		got = append(got, f.Queue+" "+f.Reason)
	}
	if text := strings.Join(got, ", "); text != "a ParentCycle, b ParentCycle, c ParentCycle, greedy GuaranteeAboveLimit, lost ParentNotFound, odd BadHierarchy, self ParentCycle" {
		t.Errorf("faults: %s", text)
	}
	if want := `queue "a": its parents go round in a circle: a, b, c, a`; l.Faults[0].Message != want {
		t.Errorf("%s, want %s", l.Faults[0].Message, want)
	}
	for queue, stops := range map[string]bool{"a": true, "d": true, "lost": true, "self": true, "greedy": false, "odd": false, "well": false} {
		if got := l.Stopped(queue) != nil; got != stops {
			t.Errorf("queue %s stopped: %v", queue, got)
		}
	}
}

// drawQueues makes any tree, most of them badly declared.
func drawQueues(t *rapid.T, w *schedtest.World) {
	n := rapid.IntRange(1, 9).Draw(t, "queues")
	amount := func(label string) resource.List {
		var qs []resource.Quantity
		for _, name := range []string{gpu, "cpu", "none/such"} {
			if rapid.IntRange(0, 2).Draw(t, label) == 0 {
				qs = append(qs, resource.Quantity{Name: name, Amount: rapid.OneOf(rapid.Int64Range(0, 20), rapid.SampledFrom([]int64{resource.Max, -3})).Draw(t, label)})
			}
		}
		return resource.MakeList(qs...)
	}
	for i := range n {
		q := snapshot.Queue{
			Name: fmt.Sprintf("q%d", i), Weight: rapid.SampledFrom([]int64{0, 1, 2, 7, 65535, resource.Max, -1}).Draw(t, "weight"),
			Parent:     rapid.SampledFrom([]string{"", "", "root", "q0", "q1", "q2", "q3", "absent"}).Draw(t, "parent"),
			Capability: amount("capability"), Deserved: amount("deserved"), Guarantee: amount("guarantee"),
			Hierarchy:        rapid.SampledFrom([]string{"", "root/x/y", "root/x/z", "a/b", "root", "root//y", "/"}).Draw(t, "hierarchy"),
			HierarchyWeights: rapid.SampledFrom([]string{"", "1/2/3", "1/1", "x", "1/0/1", "1"}).Draw(t, "weights"),
		}
		w.Queues = append(w.Queues, q)
	}
	if rapid.Bool().Draw(t, "root exists") {
		w.Queues = append(w.Queues, snapshot.Queue{Name: "root", Capability: amount("capability"), Guarantee: amount("guarantee")})
	}
	for range rapid.IntRange(0, 8).Draw(t, "gangs") {
		queue := rapid.SampledFrom(w.Queues).Draw(t, "queue").Name
		if size := rapid.Int64Range(0, 9).Draw(t, "size"); rapid.Bool().Draw(t, "held") {
			holds(w, queue, size)
		} else {
			wants(w, queue, size)
		}
	}
}

// TestAnyTreeIsSharedSoundly holds the invariants that the package promises.
func TestAnyTreeIsSharedSoundly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world(rapid.Int64Range(0, 40).Draw(t, "total"))
		drawQueues(t, w)
		for _, mode := range []entitlement.Mode{entitlement.ByWeight, entitlement.Declared} {
			s := w.Snapshot()
			l := entitlement.New(s, entitlement.Options{Mode: mode, Annotations: true})
			checkTree(t, s, l, mode)
			if again := entitlement.New(w.Snapshot(), entitlement.Options{Mode: mode, Annotations: true}); fmt.Sprint(tell(l)) != fmt.Sprint(tell(again)) {
				t.Fatal("two ledgers of one state differ")
			}
		}
	})
}

func tell(l *entitlement.Ledger) []string {
	var out []string
	for _, q := range l.Queues() {
		out = append(out, fmt.Sprintln(q.Name, q.Own, q.Guarantee, q.Deserved, q.Capability, q.Held, q.Wanted))
	}
	return append(out, fmt.Sprint(l.Faults))
}

func checkTree(t *rapid.T, s *snapshot.Snapshot, l *entitlement.Ledger, mode entitlement.Mode) {
	seen := map[string]bool{}
	for _, q := range l.Queues() {
		if !q.Own {
			seen[q.Name] = true
		}
		below := l.Below(q)
		for d := range s.Dims.Len() {
			if q.Guarantee[d] < 0 || q.Guarantee[d] > q.Deserved[d] || q.Deserved[d] > q.Capability[d] {
				t.Fatalf("queue %s, %s: guaranteed %d, deserves %d, at most %d", q.Name, s.Dims.Name(d), q.Guarantee[d], q.Deserved[d], q.Capability[d])
			}
			var deserved, held int64
			for _, c := range below {
				deserved += c.Deserved[d]
				held += c.Held[d]
			}
			if len(below) == 0 {
				continue
			}
			if deserved > q.Deserved[d] {
				t.Fatalf("below %s, %s: %d deserved in sum, %d by itself", q.Name, s.Dims.Name(d), deserved, q.Deserved[d])
			}
			if held != q.Held[d] {
				t.Fatalf("below %s, %s: %d held in sum, %d by itself", q.Name, s.Dims.Name(d), held, q.Held[d])
			}
			if mode == entitlement.ByWeight && deserved < q.Deserved[d] && unserved(below, d) {
				t.Fatalf("below %s, %s: %d of %d shared though somebody wants more", q.Name, s.Dims.Name(d), deserved, q.Deserved[d])
			}
		}
	}
	for _, q := range s.Queues {
		if !seen[q.Name] {
			t.Fatalf("queue %s is not in the tree", q.Name)
		}
	}
}

// unserved reports whether a leaf could have more than it got.
func unserved(queues []*entitlement.Queue, d int) bool {
	for _, q := range queues {
		if q.Leaf() && q.Deserved[d] < min(q.Held[d]+q.Wanted[d], q.Capability[d]) {
			return true
		}
	}
	return false
}
