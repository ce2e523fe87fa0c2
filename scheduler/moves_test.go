package scheduler_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestWhatIsLeftOfAMoveFollowsOnlyToRoom: the rest of a gang whose move another scheduler
// began follows to the room that is kept. It stays where it is when nobody was sent away,
// and when the room is not there any more; then nothing is kept either.
func TestWhatIsLeftOfAMoveFollowsOnlyToRoom(t *testing.T) {
	pipe := pipelineOf(t, consolidating)
	away := func(w *schedtest.World) { w.Gang("a").Pods = w.Gang("a").Pods[1:] }
	taken := func(gpus string) func(*schedtest.World) {
		return func(w *schedtest.World) {
			away(w)
			for _, line := range []string{"group x min=1", "pods x w 1 gpu=" + gpus} {
				if _, err := w.Do(line); err != nil {
					t.Fatal(err)
				}
			}
			p := w.Gang("x").Pods[0]
			p.Node, p.Attempt, p.Size, p.Phase = "n2", "x", 1, snapshot.PodRunning
		}
	}
	for _, c := range []struct {
		name         string
		change       func(w *schedtest.World)
		goes, gaveUp bool
	}{
		{name: "one was sent away", change: away, goes: true},
		{name: "one has ended by itself", change: func(w *schedtest.World) { w.Gang("a").Pods[0].Phase = snapshot.PodSucceeded }},
		{name: "another has half of the room", change: taken("1"), gaveUp: true},
		{name: "another has all of the room", change: taken("2"), gaveUp: true},
		{name: "the node lets nobody in", change: func(w *schedtest.World) { away(w); w.Nodes[1].Unschedulable = true }, gaveUp: true},
		{name: "the node is not ready", change: func(w *schedtest.World) { away(w); w.Nodes[1].Ready = false }, gaveUp: true},
		{name: "the node is gone", change: func(w *schedtest.World) { away(w); w.Nodes = w.Nodes[:1] }, gaveUp: true},
	} {
		w := fragmented(t, "movable")
		w.Delete("wide")
		g := w.Gang("a")
		n := &snapshot.Nomination{Domain: "nodes", Since: w.Now.Add(-time.Minute).UnixNano(), Until: w.Now.Add(5 * time.Minute).UnixNano(), Evicted: 2}
		for _, p := range g.Pods {
			n.Pods = append(n.Pods, snapshot.NominatedPod{UID: p.UID, Name: p.Name, Node: "n2", Needs: p.Needs.Requests})
		}
		g.Nominated = n
		c.change(w)
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		evicted, gaveUp := 0, false
		for _, claim := range p.Claims {
			evicted += len(claim.Evictions)
			gaveUp = gaveUp || claim.Name == "a" && claim.Nomination.Until <= w.Now.UnixNano()
		}
		if evicted > 0 != c.goes || gaveUp != c.gaveUp {
			t.Errorf("%s: the rest goes: %t, want %t; the move is given up: %t, want %t\n%s", c.name, evicted > 0, c.goes, gaveUp, c.gaveUp, p)
		}
		if !gaveUp {
			continue
		}
		w.Apply(p)
		if p := scheduler.Cycle(pipe, w.Snapshot(), w.Now); strings.Contains(p.String(), " a by repair") {
			t.Errorf("%s: once given up, the move is looked at again:\n%s", c.name, p)
		}
	}
}
