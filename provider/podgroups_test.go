package provider_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
)

// groups are PodGroups in memory.
type groups struct {
	providertest.Objects
	mu  sync.Mutex
	min map[string]int32
	err error
}

func newGroups() *groups { return &groups{min: map[string]int32{}} }

func (g *groups) set(name string, least int32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if least < 0 {
		delete(g.min, name)
	} else {
		g.min[name] = least
	}
}

func (g *groups) PodGroup(_ context.Context, _, name string) (int32, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n, ok := g.min[name]; ok || g.err != nil {
		return n, g.err
	}
	return 0, apierrors.NewNotFound(schema.GroupResource{Resource: "podgroups"}, name)
}

func (g *groups) PodGroups(context.Context, string) (map[string]int32, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.min), g.err
}

// foreign is a world whose pods another scheduler binds.
type foreign struct {
	*world
	groups *groups
}

func newForeign(t *testing.T, gate *providertest.Gate) *foreign {
	f := &foreign{world: newWorld(t, time.Hour, gate), groups: newGroups()}
	f.beginWith(f.groups)
	return f
}

// beginWith starts a daemon that remembers nothing.
func (f *foreign) beginWith(objects provider.Objects) {
	f.objects = objects
	f.boot()
}

// bound binds pods of a PodGroup as a scheduler does that knows nothing of us.
func (w *world) bound(pods []*corev1.Pod, group, node string) (uids []types.UID) {
	for _, p := range pods {
		p.Annotations = map[string]string{wellknown.PodGroupName: group}
		p.Spec.NodeName = node
		w.api.Create(p)
		uids = append(uids, p.UID)
	}
	return uids
}

// bind makes a pod of a PodGroup on a node.
func (f *foreign) bind(name, group, node string) *corev1.Pod {
	return f.api.Get(f.bound(f.pods(name, 1), group, node)[0])
}

func (f *foreign) ticks(n int) {
	for range n {
		f.tick()
	}
}

// jobOf is the job of a pod as the API has it.
func (f *foreign) jobOf(p *corev1.Pod) string {
	return f.api.Get(p.UID).Annotations[wellknown.BatchJobID]
}

// waits is the reason and message for which a pod waits.
func (f *foreign) waits(p *corev1.Pod) string {
	for _, c := range f.api.Get(p.UID).Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			return w.Reason + ": " + w.Message
		}
	}
	return ""
}

// running are the jobs that were let go and have not ended.
func (f *foreign) running() (jobs []backends.Job) {
	for _, j := range f.system.Jobs() {
		if !j.State.Terminal() && !j.Held {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

func want(t *testing.T, what, got, contains string) {
	t.Helper()
	if !strings.Contains(got, contains) {
		t.Errorf("%s waits for %q, want %q in it", what, got, contains)
	}
}

// Pods that another scheduler binds are one job once as many are bound to the node
// as their PodGroup's minMember; those that come later have jobs of their own.
func TestGangOfAnotherScheduler(t *testing.T) {
	f := newForeign(t, providertest.Sound())
	f.groups.set("ring", 3)
	a, b := f.bind("ring-10", "ring", "node-main"), f.bind("ring-9", "ring", "node-main")
	away := f.bind("ring-3", "ring", "node-other")
	f.ticks(3)
	want(t, "a member", f.waits(a), "WaitingForMembers: 2 members of PodGroup ns/ring are bound to this node; the batch job is submitted once its minMember of 3 are; 1 are bound to other nodes")
	if n := len(f.system.Jobs()); n != 0 {
		t.Fatalf("%d jobs of a gang that is not whole", n)
	}
	f.vanish(away.UID)
	c := f.bind("ring-8", "ring", "node-main")
	f.ticks(3)
	jobs := f.running()
	if len(jobs) != 1 || f.jobOf(a) != string(jobs[0].ID) || f.jobOf(b) != f.jobOf(a) || f.jobOf(c) != f.jobOf(a) {
		t.Fatalf("jobs %+v; the members have %q, %q, %q", jobs, f.jobOf(a), f.jobOf(b), f.jobOf(c))
	}
	f.stager.Change(jobs[0].Key, func(g *providertest.StagedGang) {
		var names []string
		for _, p := range g.Output.Pods {
			names = append(names, p.Pod.Name)
		}
		if !slices.Equal(names, []string{"ring-8-0", "ring-9-0", "ring-10-0"}) {
			t.Errorf("ranks are %v", names)
		}
	})
	// More than the least number, and a minimum that is raised too late.
	f.groups.set("ring", 5)
	d := f.bind("ring-7", "ring", "node-main")
	f.ticks(3)
	if f.jobOf(d) == "" || f.jobOf(d) == f.jobOf(a) || len(f.running()) != 2 {
		t.Errorf("a later member has job %q beside %q: %+v", f.jobOf(d), f.jobOf(a), f.running())
	}
	old := f.jobOf(a)
	// The whole gang is begun anew while the old one is still going.
	for _, p := range []*corev1.Pod{a, b, c, d} {
		f.api.Delete(p.UID, metav1.NewTime(f.clock.Now()))
	}
	f.groups.set("ring", 2)
	e := f.bind("ring-1", "ring", "node-main")
	f.ticks(1)
	want(t, "the first of the next gang", f.waits(e), "minMember of 2")
	g := f.bind("ring-2", "ring", "node-main")
	f.ticks(30)
	if f.jobOf(e) == "" || f.jobOf(e) != f.jobOf(g) || f.jobOf(e) == old || len(f.running()) != 1 {
		t.Errorf("the next gang has jobs %q and %q: %+v", f.jobOf(e), f.jobOf(g), f.running())
	}
}

// What a PodGroup does not tell is waited for, with the reason; pods of one without
// a minimum, and all where there are no PodGroups, are alone.
func TestPodGroupThatDoesNotTell(t *testing.T) {
	f := newForeign(t, providertest.Sound())
	a, b := f.bind("a", "lost", "node-main"), f.bind("b", "lost", "node-main")
	f.ticks(2)
	want(t, "a member", f.waits(a), "WaitingForPodGroup: PodGroup ns/lost does not exist: create it")
	f.groups.err = errors.New("no right to do that")
	f.ticks(3)
	want(t, "a member", f.waits(a), "WaitingForPodGroup: PodGroup ns/lost cannot be read: no right to do that")
	f.groups.err = nil
	f.groups.set("lost", 3)
	f.ticks(3)
	want(t, "a member", f.waits(b), "2 members of PodGroup ns/lost")
	if n := len(f.system.Jobs()); n != 0 {
		t.Fatalf("%d jobs although nothing said how large the gang is", n)
	}
	f.groups.set("lost", 2) // the minimum is lowered
	f.ticks(3)
	if f.jobOf(a) == "" || f.jobOf(a) != f.jobOf(b) {
		t.Errorf("jobs %q and %q", f.jobOf(a), f.jobOf(b))
	}
	f.groups.set("lost", -1) // and goes away, too late to matter
	f.ticks(3)
	if len(f.running()) != 1 {
		t.Errorf("after the PodGroup was deleted: %+v", f.system.Jobs())
	}

	f.groups.set("one", 1)
	c, d := f.bind("c", "one", "node-main"), f.bind("d", "one", "node-main")
	f.ticks(3)
	if f.jobOf(c) == "" || f.jobOf(c) == f.jobOf(d) {
		t.Errorf("minMember 1: jobs %q and %q", f.jobOf(c), f.jobOf(d))
	}
	f.groups.err = provider.ErrNoPodGroups
	e, g := f.bind("e", "none", "node-main"), f.bind("g", "none", "node-main")
	f.ticks(3)
	if f.jobOf(e) == "" || f.jobOf(e) == f.jobOf(g) {
		t.Errorf("without the kind: jobs %q and %q", f.jobOf(e), f.jobOf(g))
	}
}

// The daemon dies at each effect, early and late, and meanwhile the PodGroup's
// minimum changes or a further member comes: nothing runs twice, and each pod has
// one job that runs.
func TestGangOfAnotherSchedulerCrashes(t *testing.T) {
	change := map[string]func(*foreign){
		"nothing":         func(*foreign) {},
		"minimum lowered": func(f *foreign) { f.groups.set("ring", 2) },
		"minimum raised":  func(f *foreign) { f.groups.set("ring", 4) },
		"one more":        func(f *foreign) { f.bind("ring-3", "ring", "node-main") },
		"deleted":         func(f *foreign) { f.groups.set("ring", -1) },
	}
	points := 0
	t.Run("faults", func(t *testing.T) { // ends when its parallel lives have
		for name, then := range change {
			for _, effect := range []string{"write-intent", "stage", "submit", "record", "release"} {
				for _, m := range providertest.Faults() {
					points++
					t.Run(strings.ReplaceAll(fmt.Sprintf("%s/%s/%s", name, effect, m), " ", "_"), func(t *testing.T) {
						t.Parallel()
						// Two of three members are recorded, or have the intent, when it happens.
						nth := map[string]int{"write-intent": 3, "record": 2}[effect]
						crashForeign(t, providertest.Faulty(m, effect, max(1, nth)), then)
					})
				}
			}
		}
	})
	if !t.Failed() {
		t.Logf("%d crash points: 0 double runs", points)
	}
}

func crashForeign(t *testing.T, gate *providertest.Gate, then func(*foreign)) {
	f := newForeign(t, gate)
	f.groups.set("ring", 3)
	for i := range 3 {
		f.bind(fmt.Sprintf("ring-%d", i), "ring", "node-main")
	}
	f.ticks(1)
	then(f)
	f.ticks(5)
	f.groups.set("ring", 3) // as it was
	f.ticks(22)
	if !gate.Met() {
		t.Error("the fault did not happen")
	}
	first := ""
	for _, p := range f.api.List() {
		id := f.jobOf(p)
		if p.Status.Phase != corev1.PodRunning || id == "" {
			t.Errorf("pod %s is %s with job %q: %s", p.Name, p.Status.Phase, id, f.waits(p))
		}
		if p.Name == "ring-3-0" {
			continue // it may be in time for the gang or not
		}
		if first == "" {
			first = id
		}
		if id != first {
			t.Errorf("pod %s has job %s, another member %s", p.Name, id, first)
		}
	}
	for _, j := range f.system.Jobs() {
		if j.Held && !j.State.Terminal() {
			t.Errorf("job %s is left held", j.ID)
		}
	}
}
