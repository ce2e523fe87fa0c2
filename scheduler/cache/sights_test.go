package cache

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestOneThatSelectsAJobLeavesOthersAlike: of gangs with a label of their own each, one is
// selected by its value. That one is told apart, and all others are of one class, in
// whatever namespace they are.
func TestOneThatSelectsAJobLeavesOthersAlike(t *testing.T) {
	c := New()
	for i := range 100 {
		p := pod(fmt.Sprint("p", i), "", "1")
		p.Namespace, p.Labels = fmt.Sprint("ns", i%7), map[string]string{"job": fmt.Sprint(i)}
		c.SetPod(p)
	}
	classes := func() int {
		seen := map[string]bool{}
		for _, g := range c.Snapshot(start).Gangs {
			if g.Pods[0].Class.Peers == nil {
				seen[g.Pods[0].Class.Key] = true
			}
		}
		return len(seen)
	}
	select1 := func(name string, namespaces *metav1.LabelSelector) *corev1.Pod {
		p := apart(name, "job")
		p.Namespace = "ns1"
		term := &p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0]
		term.LabelSelector.MatchLabels["job"] = "1"
		term.NamespaceSelector = namespaces
		return p
	}
	for _, step := range []struct {
		do   func()
		want int
	}{
		{func() {}, 1},
		{func() { c.SetPod(select1("own", nil)) }, 3},                     // 1, the others of its namespace, all others
		{func() { c.SetPod(select1("any", &metav1.LabelSelector{})) }, 3}, // no job of another namespace has that name
		{func() {
			c.SetPod(select1("teams", &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}))
		}, 8},
	} {
		step.do()
		if got := classes(); got != step.want {
			t.Errorf("%d classes, want %d", got, step.want)
		}
	}
	if found := slices.Concat(c.Audit(), c.Snapshot(start).Audit()); len(found) > 0 {
		t.Error(found)
	}
}

// TestWhatIsSeenIsWhatSelectorsTell: every selection has the same answer for what is seen
// of a pod as for the pod itself.
func TestWhatIsSeenIsWhatSelectorsTell(t *testing.T) {
	spaces := map[string]map[string]string{"a": {"team": "x"}, "b": {"team": "y"}, "c": {}}
	rapid.Check(t, func(t *rapid.T) {
		word := func(label string) string { return rapid.SampledFrom([]string{"", "u", "v", "w"}).Draw(t, label) }
		key := func() string { return rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key") }
		var terms []snapshot.PeerTerm
		for range rapid.IntRange(0, 4).Draw(t, "terms") {
			term := snapshot.PeerTerm{Key: "host", Selector: &metav1.LabelSelector{}}
			switch rapid.IntRange(0, 4).Draw(t, "where") {
			case 0:
				term.All = true
			case 1:
				term.Spaces = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
			default:
				term.Namespaces = rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b"}), 1, 2, rapid.ID[string]).Draw(t, "namespaces")
			}
			if rapid.Bool().Draw(t, "by value") {
				term.Selector.MatchLabels = map[string]string{key(): word("value")}
			}
			if rapid.Bool().Draw(t, "by expression") {
				r := metav1.LabelSelectorRequirement{Key: key(), Operator: rapid.SampledFrom([]metav1.LabelSelectorOperator{"In", "NotIn", "Exists", "DoesNotExist"}).Draw(t, "operator")}
				if r.Operator == "In" || r.Operator == "NotIn" {
					r.Values = []string{word("named"), word("named")}
				}
				term.Selector.MatchExpressions = append(term.Selector.MatchExpressions, r)
			}
			if rapid.IntRange(0, 9).Draw(t, "nobody") == 0 {
				term.Selector = nil
			}
			terms = append(terms, term)
		}
		s := newSights()
		s.learn(&snapshot.Peers{Near: terms}, &anew{})
		matches := func(p snapshot.PeerTerm, namespace string, of map[string]string) bool {
			sel, err := metav1.LabelSelectorAsSelector(p.Selector)
			in, err2 := metav1.LabelSelectorAsSelector(p.Spaces)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			there, known := spaces[namespace]
			return sel.Matches(labels.Set(of)) && (p.All || slices.Contains(p.Namespaces, namespace) || known && p.Spaces != nil && in.Matches(labels.Set(there)))
		}
		for range 5 {
			namespace, of := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "namespace"), map[string]string{}
			for range rapid.IntRange(0, 2).Draw(t, "labels") {
				of[key()] = word("is")
			}
			space, seen := s.visible(namespace, of)
			for _, p := range terms {
				if got, want := matches(p, space, seen), matches(p, namespace, of); got != want {
					t.Fatalf("%+v selects %v of %s: %v, and what is seen, %v of %q: %v", p, of, namespace, want, seen, space, got)
				}
			}
		}
	})
}

// TestClassesAreThoseOfAFreshLook: whatever order pods come, change and go in, the next
// cycle sees of each what a scheduler sees that starts then, or more, never less.
func TestClassesAreThoseOfAFreshLook(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, there := New(), map[string]*corev1.Pod{}
		for range rapid.IntRange(1, 20).Draw(t, "events") {
			name := fmt.Sprint("p", rapid.IntRange(0, 7).Draw(t, "pod"))
			if _, is := there[name]; is && rapid.IntRange(0, 3).Draw(t, "goes") == 0 {
				c.DeletePod("uid-" + name)
				delete(there, name)
			} else if !is {
				p := pod(name, "", "1")
				if rapid.IntRange(0, 2).Draw(t, "selects") == 0 {
					p = apart(name, rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"))
				}
				p.Namespace = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "namespace")
				p.Labels = map[string]string{rapid.SampledFrom([]string{"k", "l"}).Draw(t, "label"): rapid.SampledFrom([]string{"v", "w", "x"}).Draw(t, "value")}
				c.SetPod(p)
				there[name] = p
			}
			if rapid.Bool().Draw(t, "looks") {
				c.Snapshot(start)
			}
		}
		fresh := New()
		for _, name := range slices.Sorted(maps.Keys(there)) {
			fresh.SetPod(there[name])
		}
		now, want := c.Snapshot(start), fresh.Snapshot(start)
		for _, g := range want.Gangs {
			was, then := g.Pods[0].Class.ClassSpec, now.Gang(g.Key).Pods[0].Class.ClassSpec
			for k, v := range was.Labels {
				if got := then.Labels[k]; got != v && v != unnamed {
					t.Fatalf("%s: label %s is seen as %q, and as %q by a fresh look", g.Name, k, got, v)
				}
			}
			if was.Namespace != "" && then.Namespace != was.Namespace {
				t.Fatalf("%s: namespace is seen as %q, and as %q by a fresh look", g.Name, then.Namespace, was.Namespace)
			}
		}
	})
}

// TestSelectorsThatAreGoneAreForgotten in time: each job may select others by its name.
func TestSelectorsThatAreGoneAreForgotten(t *testing.T) {
	c := New()
	for i := range 3 * leastNamed {
		p := apart(fmt.Sprint("p", i), "job")
		p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels["job"] = fmt.Sprint(i)
		c.SetPod(p)
		c.DeletePod(string(p.UID))
		if i%100 == 0 {
			c.Snapshot(start)
		}
	}
	if c.sights.named > 2*leastNamed {
		t.Errorf("%d values are remembered, and nobody names any", c.sights.named)
	}
}

// BenchmarkSelected is a cycle over 500 gangs of 20 that find room, each with a
// label of its own, where nobody selects any and where one pod selects one of them.
func BenchmarkSelected(b *testing.B) {
	for _, selects := range []bool{false, true} {
		b.Run(fmt.Sprint(selects), func(b *testing.B) {
			c := loaded()
			for g := range loadGangs {
				name := fmt.Sprintf("g%05d", g)
				pg := podGroup(name, loadSize)
				pg.Spec.Queue = fmt.Sprintf("q%02d", g%loadQueues)
				c.SetGroup(pg)
				for i := range loadSize {
					p := pod(fmt.Sprintf("%s-%02d", name, i), name, "4")
					p.Labels = map[string]string{"job": name}
					c.SetPod(p)
				}
			}
			if selects {
				p := apart("selects", "job")
				p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].LabelSelector.MatchLabels["job"] = "g00007"
				c.SetPod(p)
			}
			s := c.Snapshot(start)
			from := processor(b)
			for b.Loop() {
				scheduler.Cycle(schedtest.Pipeline(), s, start)
			}
			b.ReportMetric(float64((processor(b)-from).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			seen := map[*snapshot.Class]bool{}
			for _, g := range s.Gangs {
				seen[g.Pods[0].Class] = true
			}
			b.ReportMetric(float64(len(seen)), "classes")
		})
	}
}
