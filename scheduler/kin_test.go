package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// oneByOne lets all nodes be and does not say that classes of one Kin are alike to it:
// with it every plugin is asked about every class.
type oneByOne struct{}

func (oneByOne) Name() string                                        { return "one-by-one" }
func (oneByOne) Filter(*snapshot.Class, *snapshot.Node) (why string) { return "" }

// classByClass is a pipeline that asks about every class.
func classByClass(pipe framework.Pipeline) framework.Pipeline {
	pipe.Plugins = append(slices.Clip(pipe.Plugins), oneByOne{})
	return pipe
}

// sameClassByClass compares a plan with that of a pipeline which looks at nodes for every
// class and not for all of one Kin at once: they are the same to the byte.
func sameClassByClass(pipe framework.Pipeline, w *schedtest.World, p plan.Plan, r *rand.Rand) error {
	if r.IntN(4) != 0 {
		return nil
	}
	got, want := fmt.Sprintf("%+v", p), fmt.Sprintf("%+v", scheduler.Cycle(classByClass(pipe), w.Snapshot(), w.Now))
	if got != want {
		return fmt.Errorf("by kin:\n%s\nclass by class:\n%s", got, want)
	}
	return nil
}

// TestKinHasTheSameNodes draws clusters with taints, cordons, selectors and node affinity
// and compares what is decided for all classes of a Kin at once with what is decided class
// by class.
func TestKinHasTheSameNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		for i := range w.Nodes {
			if rapid.IntRange(0, 3).Draw(t, "tainted") == 0 {
				w.Nodes[i].Taints = append(w.Nodes[i].Taints, corev1.Taint{Key: "own", Effect: rapid.SampledFrom([]corev1.TaintEffect{corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}).Draw(t, "effect")})
			}
			if !w.Nodes[i].Virtual && rapid.IntRange(0, 5).Draw(t, "broken") == 0 {
				w.Nodes[i].Broken = "its description"
			}
		}
		for _, p := range w.Pods("") {
			if rapid.IntRange(0, 2).Draw(t, "tolerates") == 0 {
				p.Needs.Tolerations = []corev1.Toleration{{Key: "own", Operator: corev1.TolerationOpExists}}
			}
			if rapid.IntRange(0, 2).Draw(t, "prefers") == 0 {
				p.Needs.PreferredNodes = []corev1.PreferredSchedulingTerm{{Weight: 10, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{fmt.Sprint(rapid.IntRange(0, 1).Draw(t, "to"))}}}}}}
			}
		}
		for range 3 {
			p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
			if err := sameClassByClass(schedtest.Pipeline(), w, p, rand.New(zero{})); err != nil {
				t.Fatal(err)
			}
			w.Apply(p)
		}
	})
}

// zero is the source of a generator that gives zeros.
type zero struct{}

func (zero) Uint64() uint64 { return 0 }
