package fairshare_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestDecay: a half for each half-life to the unit, in between as the exact function
// says to a part in 10^9, never more than before, and the same in one step or two but
// for what is rounded down.
func TestDecay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64Range(0, math.MaxInt64).Draw(t, "v")
		h := rapid.Int64Range(1, 1<<32).Draw(t, "half-life")
		n := rapid.Int64Range(0, 70).Draw(t, "half-lives")
		want := int64(0)
		if n < 63 {
			want = v >> n
		}
		if got := fairshare.Decay(v, n*h, h); got != want {
			t.Fatalf("after %d half-lives %d is %d, want %d", n, v, got, want)
		}
		a := rapid.Int64Range(0, 4*h).Draw(t, "a")
		b := rapid.Int64Range(0, 4*h).Draw(t, "b")
		once := fairshare.Decay(v, a+b, h)
		if exact := float64(v) * math.Exp2(-float64(a+b)/float64(h)); math.Abs(float64(once)-exact) > exact*1e-9+2 {
			t.Fatalf("after %d of %d, %d is %d, want %f", a+b, h, v, once, exact)
		}
		if first := fairshare.Decay(v, a, h); first > v || once > first {
			t.Fatalf("%d is %d after %d and %d after %d", v, first, a, once, a+b)
		}
		twice := fairshare.Decay(fairshare.Decay(v, a, h), b, h)
		if d := once - twice; math.Abs(float64(d)) > float64(v)*1e-9+2 {
			t.Fatalf("%d is %d in one step and %d in two", v, once, twice)
		}
	})
}

// TestAverage: who holds a part for many half-lives has held just that on average,
// and half of it a half-life after he stopped.
func TestAverage(t *testing.T) {
	const halfLife = int64(1000)
	part := int64(resource.ShareUnit / 4)
	var v int64
	for range 1000 * 20 { // twenty half-lives, second by second
		v = fairshare.Decay(v, 1, halfLife) + part
	}
	near := func(got, want int64) bool { return math.Abs(float64(got-want)) < float64(want)/500 }
	if got := fairshare.Average(v, halfLife); !near(got, part) {
		t.Errorf("a quarter held for ever is %d on average, want %d", got, part)
	}
	if got := fairshare.Average(fairshare.Decay(v, halfLife, halfLife), halfLife); !near(got, part/2) {
		t.Errorf("a half-life later it is %d, want %d", got, part/2)
	}
}

// cluster has gangs of two queues and three namespaces that hold GPUs of one node.
func cluster(started time.Time) *schedtest.World {
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: "cpu", Amount: 1000000}, resource.Quantity{Name: "gpu", Amount: 10}, resource.Quantity{Name: "pods", Amount: 1000}))
	for i, of := range [][2]string{{"q1", "a"}, {"q1", "b"}, {"q2", "a"}} {
		g := w.AddGang(fmt.Sprint("g", i), 1)
		g.Queue, g.Namespace = of[0], of[1]
		for _, p := range g.AddPods("w", i+1, snapshot.ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "gpu", Amount: 1})}) {
			p.Node, p.Phase, p.StartedAt = "n", snapshot.PodRunning, started.UnixNano()
		}
	}
	return w
}

func gpuSeconds(u *snapshot.Usage) string {
	var out []string
	for _, of := range u.Of {
		tenth := float64(resource.ShareUnit) / 10
		out = append(out, fmt.Sprintf("%s/%s=%.1f", of.Queue, of.Namespace, float64(of.Held.Get("gpu"))/tenth))
	}
	return strings.Join(out, " ")
}

// TestRecord adds up GPU seconds, from when pods began and not from before anybody
// looked, and lets them fade.
func TestRecord(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := cluster(at.Add(5 * time.Second))
	b := fairshare.New()
	b.SetHalfLife(100 * time.Second)
	empty := schedtest.NewWorld()
	for _, step := range []struct {
		after time.Duration
		world *schedtest.World
		want  string
	}{
		{0, empty, ""},
		{10 * time.Second, w, "q1/a=5.0 q1/b=10.0 q2/a=15.0"},
		{10 * time.Second, w, "q1/a=5.0 q1/b=10.0 q2/a=15.0"}, // no second has passed
		{110 * time.Second, empty, "q1/a=2.5 q1/b=5.0 q2/a=7.5"},
		{310 * time.Second, empty, "q1/a=0.6 q1/b=1.2 q2/a=1.9"},
		{20 * time.Second, w, "q1/a=0.6 q1/b=1.2 q2/a=1.9"}, // the clock was set back
		{311 * time.Second, w, "q1/a=1.6 q1/b=3.2 q2/a=4.9"},
		{2 * time.Hour, empty, ""},
	} {
		b.Record(step.world.Snapshot(), at.Add(step.after))
		if got := gpuSeconds(b.Usage()); got != step.want {
			t.Errorf("after %s: %q, want %q", step.after, got, step.want)
		}
	}
	first := fairshare.New()
	first.Record(w.Snapshot(), at.Add(time.Hour))
	if got := gpuSeconds(first.Usage()); got != "q1/a=60.0 q1/b=120.0 q2/a=180.0" {
		t.Errorf("a book that begins when pods have run for long: %q", got)
	}
	bound := cluster(at)
	for _, p := range bound.Pods("") {
		p.StartedAt = 0
	}
	late := fairshare.New()
	late.Record(empty.Snapshot(), at)
	late.Record(bound.Snapshot(), at.Add(time.Hour))
	if got := gpuSeconds(late.Usage()); got != "q1/a=60.0 q1/b=120.0 q2/a=180.0" {
		t.Errorf("pods that have not begun, after an hour in which nobody looked: %q", got)
	}
}

// TestBytesAreEqual: the same history gives the same bytes, in whatever order gangs
// and pods come; what is written is read again as it was, and putting a book to itself
// changes nothing.
func TestBytesAreEqual(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var texts [][]byte
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 0))
		b := fairshare.New()
		b.SetHalfLife(77 * time.Second)
		for i := range 50 {
			w := cluster(at)
			r.Shuffle(len(w.Gangs), func(i, j int) { w.Gangs[i], w.Gangs[j] = w.Gangs[j], w.Gangs[i] })
			b.Record(w.Snapshot(), at.Add(time.Duration(i*i)*time.Second))
		}
		text, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
		if !bytes.Equal(text, texts[0]) {
			t.Fatalf("two books of one history differ:\n%s\n%s", texts[0], text)
		}
		again, err := fairshare.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		b.Merge(again)
		again.Merge(b)
		if !reflect.DeepEqual(again.Usage(), b.Usage()) {
			t.Fatalf("read is %+v, written was %+v", again.Usage(), b.Usage())
		}
		if same, err := again.Encode(); err != nil || !bytes.Equal(same, text) {
			t.Fatalf("it changed by being put to itself:\n%s\n%s, %v", text, same, err)
		}
	}
	for _, wrong := range []string{``, `{}`, `{"version":2,"at":1,"halfLife":1}`, `{"version":1,"at":-1,"halfLife":1}`, `{"version":1,"at":1}`} {
		if _, err := fairshare.Decode([]byte(wrong)); err == nil {
			t.Errorf("%q is read", wrong)
		}
	}
}

// TestBookIsBounded: who held least is forgotten.
func TestBookIsBounded(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := cluster(at)
	for i := range fairshare.MaxKeys + 20 {
		g := w.AddGang(fmt.Sprintf("many%04d", i), 1)
		g.Queue = fmt.Sprintf("many%04d", i)
		for _, p := range g.AddPods("w", 1, snapshot.ClassSpec{}) {
			p.Node, p.Phase, p.StartedAt = "n", snapshot.PodRunning, at.UnixNano()
		}
	}
	b := fairshare.New()
	b.Record(w.Snapshot(), at.Add(time.Minute))
	if b.Keys() != fairshare.MaxKeys || !strings.HasPrefix(gpuSeconds(b.Usage()), "many0000/default=0.0") || !strings.HasSuffix(gpuSeconds(b.Usage()), "q1/a=60.0 q1/b=120.0 q2/a=180.0") {
		t.Errorf("%d keys: %s", b.Keys(), gpuSeconds(b.Usage()))
	}
	text, err := b.Encode()
	if err != nil || len(text) > 400<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
