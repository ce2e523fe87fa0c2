package overcommit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

const gpu = "nvidia.com/gpu"

// cluster is a node of 100 GPUs, and queues as a script writes them.
func cluster(t *testing.T, queues ...string) *schedtest.World {
	t.Helper()
	w := schedtest.NewWorld()
	w.SetNode(schedtest.Real("n", resource.Quantity{Name: gpu, Amount: 100}, resource.Quantity{Name: "pods", Amount: 1000}))
	for _, line := range queues {
		if _, err := w.Do("queue " + line); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// add adds n gangs of one pod, named by their phase. Those that run have it placed, and
// those that are pending have none.
func add(w *schedtest.World, queue, phase string, n int, gpus int64, priority int32) {
	for i := range n {
		g := w.AddGang(fmt.Sprintf("%s-%s%d-%d", queue, strings.ToLower(phase), priority, i), 1)
		g.Queue, g.Priority, g.Status.Phase = queue, priority, phase
		g.MinResources = resource.MakeList(resource.Quantity{Name: gpu, Amount: gpus})
		if phase == snapshot.GroupPending {
			continue
		}
		withPods(g)
		if phase == snapshot.GroupRunning {
			p := g.Pods[0]
			p.Node, p.Attempt, p.Size, p.Phase, p.StartedAt = "n", g.Name, 1, snapshot.PodRunning, 1
			continue
		}
		// It was looked at before and found no room.
		g.Status.Conditions = []snapshot.Condition{{Type: "Unschedulable", Status: "True", Reason: "NotEnoughResources"}}
	}
}

func withPods(g *schedtest.Gang) {
	g.AddPods("w", 1, snapshot.ClassSpec{Requests: g.MinResources})
}

// piped is the standard configuration with overcommit, and with proportion as is said.
func piped(t *testing.T, proportion string) framework.Pipeline {
	t.Helper()
	text := strings.Replace(config.Standard, "- name: proportion", "- name: overcommit\n  - "+proportion, 1)
	c, warnings, err := config.Parse([]byte(text))
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	return c.Pipeline()
}

// letIn runs a cycle, and counts who is let in by queue. Words are why others are not, by name.
func letIn(pipe framework.Pipeline, w *schedtest.World) (in map[string]int, words map[string]string) {
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	in, words = map[string]int{}, map[string]string{}
	for _, u := range p.Unschedulable {
		if u.Code == plan.Overcommitted {
			words[u.Name] = u.Message
		}
	}
	for _, g := range w.Gangs {
		i := slices.IndexFunc(p.Statuses, func(s plan.Status) bool { return s.Gang == g.Key })
		if g.Status.Phase == snapshot.GroupPending && i >= 0 && p.Statuses[i].Want.Phase == snapshot.GroupInqueue {
			in[g.Queue]++
		}
	}
	w.Apply(p)
	return in, words
}

// TestABacklogThatCannotRunKeepsNobodyOut: what a queue cannot hold does not count for
// others, however much of it was let in; and no more than that by a fifth is let in.
func TestABacklogThatCannotRunKeepsNobodyOut(t *testing.T) {
	w := cluster(t, "a cap.gpu=10", "b")
	add(w, "a", snapshot.GroupRunning, 10, 1, 0)
	add(w, "a", snapshot.GroupPending, 120, 1, 0)
	in, words := letIn(piped(t, "name: proportion"), w.Clone())
	if want := `12 nvidia.com/gpu are held and wanted by gangs of queue "a" that count before it, and 12 may be, 120 % of what it can hold; its minimum is 1, and 2 that were let in wait before it in its queue`; in["a"] != 2 || words["a-pending0-2"] != want {
		t.Errorf("%v are let in, and the next waits since\n%s\nwant\n%s", in, words["a-pending0-2"], want)
	}
	// Nothing bounds queues: all of a's are let in that the cluster has and a fifth more.
	off := piped(t, "{name: proportion, enableJobEnqueued: false}")
	if in, _ := letIn(off, w); in["a"] != 110 {
		t.Errorf("%v are let in where queues are not bounded", in)
	}
	add(w, "b", snapshot.GroupPending, 95, 1, 0)
	if in, words := letIn(off, w); in["b"] < 90 || in["a"] > 0 {
		t.Errorf("%v are let in, of 95 of queue b: %v", in, words)
	}
}

// TestABacklogDoesNotBlockReclaim: a queue that holds less than it deserves is let in
// whatever another has let in beyond what that one deserves, and then takes its part.
func TestABacklogDoesNotBlockReclaim(t *testing.T) {
	w := cluster(t, "a", "b")
	add(w, "a", snapshot.GroupRunning, 10, 10, 0)
	add(w, "a", snapshot.GroupInqueue, 2, 10, 0)
	add(w, "b", snapshot.GroupPending, 3, 20, 0)
	add(w, "b", snapshot.GroupPending, 1, 20, -1)
	pipe := piped(t, "name: proportion")
	in, words := letIn(pipe, w)
	if in["b"] != 3 || len(words) != 1 {
		t.Fatalf("%v are let in; %v", in, words)
	}
	for _, g := range w.Gangs {
		if g.Queue == "b" && g.Status.Phase == snapshot.GroupInqueue {
			withPods(g)
		}
	}
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	if !slices.ContainsFunc(p.Claims, func(c plan.Claim) bool { return c.Action == "reclaim" && strings.HasPrefix(c.Name, "b-") }) {
		t.Errorf("nothing is reclaimed:\n%s", p)
	}
}

// TestLowerPriorityKeepsNobodyOut: a gang is let in whatever those of lower priority hold
// and were let in for; those of its own priority count.
func TestLowerPriorityKeepsNobodyOut(t *testing.T) {
	w := cluster(t, "a")
	add(w, "a", snapshot.GroupRunning, 10, 10, 1)
	add(w, "a", snapshot.GroupInqueue, 2, 10, 1)
	add(w, "a", snapshot.GroupPending, 3, 50, 2)
	pipe := piped(t, "name: proportion")
	in, words := letIn(pipe, w)
	const want = "100 nvidia.com/gpu are held and wanted by gangs that count before it, and 120 may be, 120 % of what there is; its minimum is 50, and 2 that were let in wait before it in its queue"
	if in["a"] != 2 || words["a-pending2-2"] != want {
		t.Fatalf("%v are let in, and the third waits since %q", in, words["a-pending2-2"])
	}
	for _, g := range w.Gangs {
		if g.Priority == 2 && g.Status.Phase == snapshot.GroupInqueue {
			withPods(g)
		}
	}
	if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); len(p.Claims) != 2 || p.Claims[0].Action != "preempt" {
		t.Errorf("who was let in preempts nobody:\n%s", p)
	}
}

// TestTheFirstOfAQueueIsLetIn: so that a start can be planned for it, however large it is;
// what is in its way goes on, and small ones come all the time.
func TestTheFirstOfAQueueIsLetIn(t *testing.T) {
	w := cluster(t, "a")
	add(w, "a", snapshot.GroupRunning, 9, 10, 0)
	add(w, "a", snapshot.GroupPending, 1, 100, 0)
	add(w, "a", snapshot.GroupPending, 1, 100, -1)
	if in, words := letIn(piped(t, "name: proportion"), w); in["a"] != 1 || len(words) != 1 {
		t.Errorf("%v are let in; %v", in, words)
	}
}

// TestWhoHasPodsIsLetIn: keeping it out would keep no pod from being made.
func TestWhoHasPodsIsLetIn(t *testing.T) {
	w := cluster(t, "a")
	add(w, "a", snapshot.GroupRunning, 10, 10, 0)
	add(w, "a", snapshot.GroupInqueue, 2, 10, 0)
	add(w, "a", snapshot.GroupPending, 2, 10, 0)
	withPods(w.Gang("a-pending0-1"))
	if in, words := letIn(piped(t, "name: proportion"), w); in["a"] != 1 || words["a-pending0-0"] == "" {
		t.Errorf("%v are let in; %v", in, words)
	}
}

// TestRoomThatNobodyTakesLetsIn: gangs that were let in and find no place on their nodes
// keep nobody out of what is idle, and those whose pods are being made do.
func TestRoomThatNobodyTakesLetsIn(t *testing.T) {
	for told, want := range map[bool]int{true: 3, false: 0} {
		w := cluster(t, "a")
		add(w, "a", snapshot.GroupRunning, 7, 10, 0)
		add(w, "a", snapshot.GroupInqueue, 2, 25, 0)
		add(w, "a", snapshot.GroupPending, 9, 10, 0)
		for _, g := range w.Gangs {
			switch {
			case g.Status.Phase != snapshot.GroupInqueue:
			case told:
				g.Pods[0].Needs.NodeSelector = map[string]string{"disk": "fast"}
			default:
				g.Pods, g.Status.Conditions = nil, nil
			}
		}
		if in, words := letIn(piped(t, "name: proportion"), w); in["a"] != want {
			t.Errorf("told %v: %v are let in; %v", told, in, words)
		}
	}
}

// TestCordonedRoomLetsNobodyIn: what is idle on a node where nobody can be placed is none
// that somebody could have.
func TestCordonedRoomLetsNobodyIn(t *testing.T) {
	w := cluster(t, "a")
	out := schedtest.Real("out", resource.Quantity{Name: gpu, Amount: 100}, resource.Quantity{Name: "pods", Amount: 1000})
	out.Unschedulable = true
	w.SetNode(out)
	add(w, "a", snapshot.GroupRunning, 7, 10, 0)
	add(w, "a", snapshot.GroupInqueue, 7, 25, 0)
	add(w, "a", snapshot.GroupPending, 9, 10, 0)
	for _, g := range w.Gangs {
		if g.Status.Phase == snapshot.GroupInqueue {
			g.Pods[0].Needs.NodeSelector = map[string]string{"disk": "fast"}
		}
	}
	if in, words := letIn(piped(t, "name: proportion"), w); in["a"] != 3 {
		t.Errorf("%v are let in, for 30 GPUs that are idle; %v", in, words)
	}
}
