package cache

import (
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volcanov1 "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// waiting is a cache with some nodes, of which half are of a group, and a gang.
func waiting() *Cache {
	c := New()
	c.SetQueue(&volcanov1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "default"}, Spec: volcanov1.QueueSpec{Weight: 1}})
	for i := range 6 {
		n := node(fmt.Sprintf("n%d", i), "8")
		if i < 3 {
			n.Labels = map[string]string{"volcano.sh/nodegroup-name": "a"}
		}
		c.SetNode(n)
	}
	c.SetGroup(podGroup("g", 1))
	c.SetPod(pod("g-0", "g", "2"))
	return c
}

// TestWhatAnotherConfigurationSaidIsNotRemembered: a configuration that is loaded while the
// scheduler runs is heard at once, also of nodes that are the same.
func TestWhatAnotherConfigurationSaidIsNotRemembered(t *testing.T) {
	c, s := waiting(), start
	on := map[bool]string{}
	for step, strict := range []bool{false, true, false, true} {
		conf, _, err := config.Parse(fmt.Appendf(nil, "actions: \"enqueue, allocate\"\ntiers: [{plugins: [{name: nodegroup, arguments: {strict: %t}}]}]", strict))
		if err != nil {
			t.Fatal(err)
		}
		snap := c.Snapshot(s)
		want := schedtest.FromNothing(conf.Pipeline(), snap, s)
		if got := scheduler.Cycle(conf.Pipeline(), snap, s); asJSON(t, got) != asJSON(t, want) {
			t.Errorf("cycle %d: %s\nwant %s", step, got, want)
		}
		on[strict] = want.Placements[0].Binds[0].Node
	}
	if on[true] == on[false] {
		t.Errorf("both place it on %s", on[true])
	}
}

// choosy lets pods go to a node of its list alone.
type choosy struct{ nodes []string }

func (choosy) Name() string { return "choosy" }
func (choosy) JudgesKin()   {}
func (p choosy) Lasts() any { return p }
func (p choosy) Filter(_ *snapshot.Class, n *snapshot.Node) string {
	if n.Name != p.nodes[0] {
		return "it was not chosen"
	}
	return ""
}

// fickle is a plugin whose value is the same while its answers are not.
type fickle struct{ choosy }

func (p *fickle) Lasts() any { return p }

// TestAnswersThatCannotBeToldApartDoNotLast: a plugin that says of its answers that they last,
// by what cannot be compared, or stays the same when it changes, is asked again.
func TestAnswersThatCannotBeToldApartDoNotLast(t *testing.T) {
	later := &fickle{choosy{[]string{"n0"}}}
	for name, make := range map[string]func(node string) framework.Plugin{
		"uncomparable": func(node string) framework.Plugin { return choosy{[]string{node}} },
		"by reference": func(node string) framework.Plugin { later.nodes[0] = node; return later },
	} {
		c := waiting()
		for i := range 6 {
			pipe := schedtest.Pipeline()
			want := fmt.Sprintf("n%d", i)
			pipe.Plugins = append(pipe.Plugins[:len(pipe.Plugins):len(pipe.Plugins)], make(want))
			p := scheduler.Cycle(pipe, c.Snapshot(start), start)
			if len(p.Placements) != 1 || p.Placements[0].Binds[0].Node != want {
				t.Errorf("%s: cycle %d: %s", name, i, p)
			}
		}
	}
}
