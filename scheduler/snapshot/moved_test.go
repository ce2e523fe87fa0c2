package snapshot_test

import (
	"slices"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestAMoveCountsOnceItHasBegun: what was only written down is no move of the gang, and
// what counted before still does; once a pod has gone for it, it is one more.
func TestAMoveCountsOnceItHasBegun(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	gang := func(before *snapshot.Moved) *snapshot.Gang {
		g := &snapshot.Gang{}
		n := &snapshot.Nomination{Domain: "nodes", Since: now.UnixNano(), Moved: before, Leaves: []string{"n1"}}
		for _, name := range []string{"a", "b"} {
			p := &snapshot.Pod{Name: name, UID: name, Node: "n1", Phase: snapshot.PodRunning}
			g.Pods = append(g.Pods, p)
			n.Pods = append(n.Pods, snapshot.NominatedPod{UID: p.UID, Name: p.Name, Node: "n2"})
		}
		g.Nominated = n
		return g
	}
	earlier := &snapshot.Moved{Times: 1, At: now.Add(-time.Hour).UnixNano(), From: []string{"n0"}}
	for _, c := range []struct {
		name   string
		before *snapshot.Moved
		change func(g *snapshot.Gang)
		times  int
		from   []string
	}{
		{name: "only written down", change: func(*snapshot.Gang) {}},
		{name: "only written down after an earlier one", before: earlier, change: func(*snapshot.Gang) {}, times: 1, from: []string{"n0"}},
		{name: "one has ended by itself", change: func(g *snapshot.Gang) { g.Pods[0].Phase = snapshot.PodSucceeded }},
		{name: "one is going", change: func(g *snapshot.Gang) { g.Pods[0].Terminating = true }, times: 1, from: []string{"n1"}},
		{name: "one is made anew", before: earlier, change: func(g *snapshot.Gang) { g.Pods[1].UID, g.Pods[1].Node = "b2", "" }, times: 2, from: []string{"n0", "n1"}},
		{name: "another goes for it, nobody is moved", change: func(g *snapshot.Gang) {
			for i := range g.Pods {
				g.Nominated.Pods[i].Name = ""
			}
			g.Pods = nil
		}},
		{name: "it is counted already", before: &snapshot.Moved{Times: 1, At: now.UnixNano(), From: []string{"n1"}}, change: func(g *snapshot.Gang) { g.Pods = nil }, times: 1, from: []string{"n1"}},
	} {
		g := gang(c.before)
		c.change(g)
		var got snapshot.Moved
		if m := g.MovedBy(now); m != nil {
			got = *m
		}
		if got.Times != c.times || !slices.Equal(got.From, c.from) {
			t.Errorf("%s: moved %d times from %v, want %d from %v", c.name, got.Times, got.From, c.times, c.from)
		}
		if m := g.MovedBy(now.Add(48 * time.Hour)); m != nil {
			t.Errorf("%s: %v counts after two days", c.name, m)
		}
	}
}
