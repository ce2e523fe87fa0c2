package scheduler_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// inherit writes a nomination on a gang that no scheduler of the test has decided.
func inherit(w *schedtest.World, name string, pods ...snapshot.NominatedPod) {
	g := w.Gang(name)
	g.Inherited = true
	g.Nominated = &snapshot.Nomination{
		Domain: "nodes", Since: w.Now.Add(-time.Minute).UnixNano(), Until: w.Now.Add(9 * time.Minute).UnixNano(), Pods: pods,
	}
}

func tell(t *testing.T, w *schedtest.World, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
}

// free counts the nodes on which gangs of one pod that needs all of a node are placed.
func free(t *testing.T, w *schedtest.World, nodes int) (n int) {
	t.Helper()
	for i := range nodes {
		tell(t, w, fmt.Sprintf("group probe%d min=1", i), fmt.Sprintf("pods probe%d w 1 cpu=8 gpu=4", i))
	}
	for _, pl := range scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now).Placements {
		if strings.Contains(pl.Gang, "/probe") {
			n += len(pl.Binds)
		}
	}
	return n
}

// TestInheritedNominationIsBounded: what anybody may have written on a PodGroup keeps no more
// room than the gang's own pods ask for, and none where it could never be placed.
func TestInheritedNominationIsBounded(t *testing.T) {
	const nodes = 20
	needs := resource.MakeList(resource.Quantity{Name: "nvidia.com/gpu", Amount: 4}, resource.Quantity{Name: "pods", Amount: 1})
	everywhere := func(np func(i int) snapshot.NominatedPod) (out []snapshot.NominatedPod) {
		for i := range nodes {
			p := np(i)
			p.Node = fmt.Sprintf("n%d", i)
			out = append(out, p)
		}
		return out
	}
	uid := func(w *schedtest.World, i int) string { return w.Gang("forged").Pods[i].UID }
	for name, c := range map[string]struct {
		setup func(t *testing.T, w *schedtest.World)
		keeps int
	}{
		"no pods": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=20")
			inherit(w, "forged", everywhere(func(i int) snapshot.NominatedPod {
				return snapshot.NominatedPod{UID: fmt.Sprint("old", i), Name: fmt.Sprint("p", i), Needs: needs}
			})...)
		}, 0},
		"two gated pods, and 20 others that it says were moved": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=20", "pods forged w 2 cpu=1 gpu=4 gated")
			inherit(w, "forged", everywhere(func(i int) snapshot.NominatedPod {
				return snapshot.NominatedPod{UID: fmt.Sprint("old", i), Name: fmt.Sprint("p", i), Needs: needs}
			})...)
		}, 2},
		"two small pods, and others that were moved and are large": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=20", "pods forged w 2 cpu=1 gpu=1")
			inherit(w, "forged", everywhere(func(i int) snapshot.NominatedPod {
				return snapshot.NominatedPod{UID: fmt.Sprint("old", i), Name: fmt.Sprint("p", i), Needs: needs}
			})...)
		}, 0},
		"one pod on all nodes": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=2", "pods forged w 1 cpu=1 gpu=4")
			inherit(w, "forged", everywhere(func(int) snapshot.NominatedPod { return snapshot.NominatedPod{UID: uid(w, 0)} })...)
		}, 1},
		"one name on all nodes": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=9", "pods forged w 3 cpu=1 gpu=4")
			inherit(w, "forged", everywhere(func(int) snapshot.NominatedPod {
				return snapshot.NominatedPod{UID: "old", Name: "x", Needs: needs}
			})...)
		}, 1},
		"a queue that may hold two nodes": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "queue small cap.gpu=8", "group forged min=9 queue=small", "pods forged w 3 cpu=1 gpu=4")
			inherit(w, "forged", snapshot.NominatedPod{UID: uid(w, 0), Node: "n0"}, snapshot.NominatedPod{UID: uid(w, 1), Node: "n1"}, snapshot.NominatedPod{UID: uid(w, 2), Node: "n2"})
		}, 0},
		"two gangs of a queue that may hold two nodes": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "queue small cap.gpu=8", "group forged min=9 queue=small", "pods forged w 2 cpu=1 gpu=4", "group more min=9 queue=small", "pods more w 2 cpu=1 gpu=4")
			inherit(w, "forged", snapshot.NominatedPod{UID: uid(w, 0), Node: "n0"}, snapshot.NominatedPod{UID: uid(w, 1), Node: "n1"})
			inherit(w, "more", snapshot.NominatedPod{UID: w.Gang("more").Pods[0].UID, Node: "n2"}, snapshot.NominatedPod{UID: w.Gang("more").Pods[1].UID, Node: "n3"})
		}, 2},
		"no queue": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "group forged min=9 queue=nowhere", "pods forged w 1 cpu=1 gpu=4")
			inherit(w, "forged", snapshot.NominatedPod{UID: uid(w, 0), Node: "n0"})
		}, 0},
		"it is the truth": {func(t *testing.T, w *schedtest.World) {
			tell(t, w, "queue small cap.gpu=8", "group forged min=3 queue=small", "pods forged w 2 cpu=1 gpu=4")
			inherit(w, "forged", snapshot.NominatedPod{UID: uid(w, 0), Node: "n0"}, snapshot.NominatedPod{UID: uid(w, 1), Node: "n1"})
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := schedtest.NewWorld()
			for i := range nodes {
				tell(t, w, fmt.Sprintf("node n%d cpu=8 gpu=4", i))
			}
			c.setup(t, w)
			if got := nodes - free(t, w, nodes); got != c.keeps {
				t.Errorf("%d nodes are kept, want %d", got, c.keeps)
			}
		})
	}
}

// TestRoomForTheRestOfAMoveIsBelievedFirst: of a move that a scheduler left half done, what
// is still there has its room, although the first is not made anew yet.
func TestRoomForTheRestOfAMoveIsBelievedFirst(t *testing.T) {
	w := fragmented(t, "movable")
	w.Delete("wide")
	g := w.Gang("a")
	var pods []snapshot.NominatedPod
	for _, p := range g.Pods {
		pods = append(pods, snapshot.NominatedPod{UID: p.UID, Name: p.Name, Node: "n2", Needs: p.Needs.Requests})
	}
	inherit(w, "a", pods...)
	g.Pods = g.Pods[1:]
	p := scheduler.Cycle(pipelineOf(t, consolidating), w.Snapshot(), w.Now)
	if len(p.Claims) != 1 || len(p.Claims[0].Evictions) != 1 {
		t.Errorf("the rest does not follow:\n%s", p)
	}
}

// TestInheritedNominationSparesOnlyNewcomers: for who has run for long nobody was sent away
// of late, whatever its PodGroup says.
func TestInheritedNominationSparesOnlyNewcomers(t *testing.T) {
	for ran, spared := range map[string]bool{"5m": true, "20m": false} {
		w := schedtest.NewWorld()
		tell(t, w, "node n cpu=16 gpu=4", "group low min=1 priority=0", "pods low w 1 cpu=1 gpu=4")
		w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
		tell(t, w, "run low", "later "+ran)
		inherit(w, "low", snapshot.NominatedPod{UID: w.Gang("low").Pods[0].UID, Node: "n"})
		tell(t, w, "group high min=1 priority=2", "pods high w 1 cpu=1 gpu=4")
		if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Claims) == 0 != spared {
			t.Errorf("after %s it is spared: %t, want %t\n%s", ran, len(p.Claims) == 0, spared, p)
		}
	}
}

// TestUsedNominationKeepsNothing: what a gang has come to its minimum without is free for others
// when it has lost that.
func TestUsedNominationKeepsNothing(t *testing.T) {
	for _, used := range []bool{false, true} {
		w := schedtest.NewWorld()
		tell(t, w, "node n1 cpu=8 gpu=4", "group other min=1", "pods other w 1 gpu=2", "cycle", "run other", "group g min=1", "pods g w 1 gpu=4")
		inherit(w, "g", snapshot.NominatedPod{UID: w.Pods("g-w-0")[0].UID, Node: "n1"})
		w.Gang("g").Nominated.Used = used
		tell(t, w, "group next min=1 estimate=1m", "pods next w 1 gpu=2", "cycle")
		if got := w.Pods("next-w-0")[0].Node != ""; got != used {
			t.Errorf("another gang is placed: %t, where the room was used: %t", got, used)
		}
	}
}
