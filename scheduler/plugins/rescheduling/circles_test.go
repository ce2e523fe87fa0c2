package rescheduling_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// TestNoStateComesBack: what pods use is other than what they ask for, and what is
// measured of a node is what its pods use. Where nothing happens from outside no state
// that has been comes back for as long as a day, and none of its gangs is moved before
// its rest, which doubles, is over.
func TestNoStateComesBack(t *testing.T) {
	pipe := pipeline(t, "interval: 5m, "+lowUse)
	moved, again := 0, 0
	for seed := range 30 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		w, uses := busy(t, r)
		begin := w.Now
		seen := map[string]time.Duration{}
		last, times := map[string]time.Duration{}, map[string]int{}
		was := ""
		for w.Now.Sub(begin) < 23*time.Hour {
			at := w.Now.Sub(begin)
			measure(w, uses)
			p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
			for _, c := range p.Claims {
				if n := times[c.Gang]; n > 0 {
					again++
					if rest := 20 * time.Minute << (n - 1); at-last[c.Gang] < rest {
						t.Errorf("seed %d: %s is moved for the time number %d after %s, want %s at the least", seed, c.Gang, n+1, at-last[c.Gang], rest)
					}
				}
				last[c.Gang], times[c.Gang] = at, times[c.Gang]+1
				moved++
			}
			w.Apply(p)
			state, rests := where(w)
			if rests && state != was {
				if before, been := seen[state]; been {
					t.Fatalf("seed %d: at %s all is as it was at %s: %s", seed, at, before, state)
				}
				seen[state], was = at, state
			}
			w.Settle(map[bool]time.Duration{true: 5 * time.Minute, false: time.Minute}[rests])
		}
	}
	if moved == 0 || again == 0 {
		t.Errorf("%d moves, %d of gangs that were moved before: the histories show nothing", moved, again)
	}
	t.Logf("%d moves, %d of them of gangs that were moved before", moved, again)
}

// busy has gangs on a few nodes, of which each pod uses something that nobody knows.
func busy(t *testing.T, r *rand.Rand) (*schedtest.World, map[string]int64) {
	t.Helper()
	w, uses := schedtest.NewWorld(), map[string]int64{}
	nodes := 3 + r.IntN(4)
	var lines []string
	for i := range nodes {
		lines = append(lines, fmt.Sprintf("node n%d cpu=16 mem=10", i))
	}
	gangs := 2*nodes + r.IntN(6)
	for i := range gangs {
		lines = append(lines, fmt.Sprintf("group g%d min=1", i), fmt.Sprintf("pods g%d w %d cpu=%d movable", i, 1+r.IntN(2), 1+r.IntN(2)))
	}
	for _, line := range lines {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	for i := range gangs {
		for k, p := range w.Gang(fmt.Sprint("g", i)).Pods {
			p.Node, p.Attempt, p.Size, p.Rank = fmt.Sprint("n", r.IntN(nodes)), fmt.Sprint("g", i), int64(len(w.Gang(fmt.Sprint("g", i)).Pods)), int64(k)
			uses[p.Name] = int64(r.IntN(500)) // thousandths of a processor
			if r.IntN(4) == 0 {
				uses[p.Name] = 6000 + int64(r.IntN(4000))
			}
		}
	}
	w.Settle(10 * time.Minute)
	return w, uses
}

// measure has the loads of nodes be what their pods use.
func measure(w *schedtest.World, uses map[string]int64) {
	used := map[string]int64{}
	for _, p := range w.Pods("") {
		if p.Node != "" && !p.Terminating {
			used[p.Node] += uses[p.Name]
		}
	}
	w.Loads = nil
	for _, n := range w.Nodes {
		w.Loads = append(w.Loads, snapshot.Load{Node: n.Name, CPU: min(used[n.Name]/16, 1000), At: w.Now.UnixNano()})
	}
}

// where says on which node each pod is; ok is false while some are on their way.
func where(w *schedtest.World) (state string, ok bool) {
	var out []string
	for _, p := range w.Pods("") {
		if p.Node == "" || p.Terminating {
			return "", false
		}
		out = append(out, p.Name+"@"+p.Node)
	}
	slices.Sort(out)
	return strings.Join(out, " "), true
}
