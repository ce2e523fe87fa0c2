package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/actions/repair"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// losses is a history of contention in which members are lost as well: deleted and
// made anew or not, displaced, or never bound since the scheduler died.
func losses(r *rand.Rand) []string {
	var out []string
	for _, line := range history(r) {
		out = append(out, line)
		if line == "cycle" && r.IntN(3) == 0 {
			verb := []string{"delete", "restart", "displace", "lose"}[r.IntN(4)]
			out = append(out, fmt.Sprintf("%s g%d-w-%d", verb, r.IntN(6), r.IntN(3)), "cycle")
			if r.IntN(2) == 0 {
				out = append(out, "later 2m", "cycle", "later 4m", "cycle")
			}
		}
	}
	return out
}

// broken reports whether members of a gang hold places although others of its
// minimum are lost: said once more here, from the pods alone. What runs of a gang of which
// there are not enough pods is all that its owner wants.
func broken(g *schedtest.Gang) bool {
	var left int64
	live := false
	for _, p := range g.Pods {
		lives := p.Node != "" && !p.Terminal() && !p.Terminating
		if lives && p.Phase == snapshot.PodRunning && int64(len(g.Pods)) < g.MinMember {
			return false
		}
		if lives || p.Phase == snapshot.PodSucceeded || p.Phase == snapshot.PodFailed && !p.Lost {
			left++
		}
		live = live || lives
	}
	return live && left < g.MinMember
}

func mayGo(g *schedtest.Gang) bool {
	return !slices.ContainsFunc(g.Pods, func(p *schedtest.Pod) bool { return p.Protected != "" && p.Node != "" })
}

// playLosses runs a script and checks R6 over losses: no gang that can be sent back
// stays in part for longer than the grace, none is sent back sooner, and what is
// sent back is all of it.
func playLosses(script []string, pipeline framework.Pipeline) (sent int, err error) {
	w := schedtest.NewWorld()
	since := map[string]time.Time{} // the first cycle that left a gang broken
	for i, line := range script {
		if line != "cycle" {
			if _, err := w.Do(line); err != nil && !strings.Contains(err.Error(), "no pod is named") {
				return sent, errBadScript
			}
			continue
		}
		p := scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
		for _, e := range p.Releases {
			name := strings.TrimPrefix(e.Gang, "podgroup/default/")
			if at, ok := since[name]; !ok || w.Now.Sub(at) < repair.DefaultGrace {
				if w.Gang(name).ShortSince == 0 || w.Now.UnixNano()-w.Gang(name).ShortSince < int64(repair.DefaultGrace) {
					return sent, fmt.Errorf("line %d: gang %s is sent back before its grace is over\n%s", i+1, name, p)
				}
			}
		}
		w.Apply(p)
		sent += len(p.Releases)
		for _, n := range w.Nodes {
			if err := checkNode(w, n); err != nil {
				return sent, fmt.Errorf("line %d: %w\n%s", i+1, err, p)
			}
		}
		if err := notForLong(w, since, p); err != nil {
			return sent, fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := protectedStay(w); err != nil {
			return sent, fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
	}
	for range 4*len(w.Gangs) + 8 { // left alone, all is whole or waits
		p := scheduler.Cycle(pipeline, w.Snapshot(), w.Now)
		w.Apply(p)
		if err := notForLong(w, since, p); err != nil {
			return sent, fmt.Errorf("at the end: %w\n%s", err, p)
		}
		if len(p.Placements)+len(p.Claims)+len(p.Releases) == 0 && len(since) == 0 {
			return sent, nil
		}
		w.Settle(3 * time.Minute)
	}
	return sent, fmt.Errorf("no rest; broken are %v", since)
}

func notForLong(w *schedtest.World, since map[string]time.Time, p plan.Plan) error {
	for _, g := range w.Gangs {
		nominated := g.Nominated != nil && g.Nominated.Until > w.Now.UnixNano()
		if !broken(g) || !mayGo(g) || nominated {
			delete(since, g.Name)
			continue
		}
		at, known := since[g.Name]
		if !known {
			since[g.Name] = w.Now
			continue
		}
		if slices.ContainsFunc(p.Unschedulable, func(u plan.Unschedulable) bool { return u.Gang == g.Key && u.Code == plan.Nominated }) {
			continue // the room that completes it is becoming free: that pods go for longer than the grace is not its doing
		}
		if w.Now.Sub(at) >= repair.DefaultGrace {
			return fmt.Errorf("gang %s has been there in part since %s and stays", g.Name, at.Format(time.RFC3339))
		}
	}
	return nil
}

// TestShortGangsAreSentBack is R6 over losses. A failure is shown as the shortest
// script that still fails.
func TestShortGangsAreSentBack(t *testing.T) {
	sent := 0
	play := func(script []string) error {
		n, err := playLosses(script, schedtest.Pipeline())
		sent += n
		return err
	}
	for seed := range seeds(t) {
		script := losses(rand.New(rand.NewPCG(uint64(seed), 3)))
		if err := play(script); err != nil {
			script, err = shrinkBy(script, err, play)
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
	if t.Logf("%d histories, %d pods sent back", seeds(t), sent); sent == 0 {
		t.Error("nothing was ever sent back")
	}
}

// TestLossesAreFound: the property fails where nothing is sent back.
func TestLossesAreFound(t *testing.T) {
	script := []string{"node n1 cpu=8 gpu=2", "group g0 min=2", "pods g0 w 2 gpu=1", "cycle", "delete g0-w-1", "cycle", "later 6m", "cycle"}
	if sent, err := playLosses(script, schedtest.Pipeline()); err != nil || sent != 1 {
		t.Fatal(sent, err)
	}
	without := schedtest.Pipeline()
	without.Actions = slices.DeleteFunc(slices.Clone(without.Actions), func(a framework.Action) bool { return a.Name() == repair.Reason })
	if _, err := playLosses(script, without); err == nil || !strings.Contains(err.Error(), "stays") {
		t.Errorf("a gang that stayed in part gave %v", err)
	}
}

// TestRestKeepsRoom: a gang that is half bound and rests, after a refusal say, keeps the
// room of those that are missing: one that comes meanwhile does not take it.
func TestRestKeepsRoom(t *testing.T) {
	w := schedtest.NewWorld()
	for _, line := range []string{"virtual v shape=1*cpu=8,gpu=4", "group half min=4", "pods half w 4 gpu=1"} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	for _, line := range []string{"lose half-w-2", "lose half-w-3", "group late min=1 priority=9", "pods late w 1 gpu=1"} {
		if _, err := w.Do(line); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	w.Gang("half").Hold = "rests"
	if p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now); len(p.Placements) != 0 {
		t.Errorf("its room is taken:\n%s", p)
	}
	w.Gang("half").Hold = ""
	w.Apply(scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now))
	if placed(w.Gang("half")) != 4 {
		t.Errorf("%d of 4 are placed after the rest", placed(w.Gang("half")))
	}
}

// TestInterruptedGangsComeFirst: a scheduler died between two bindings of a gang that it had
// not yet told to be let in. The gang is completed before another takes the room, whatever
// its PodGroup says: what holds places in part has been let in before.
func TestInterruptedGangsComeFirst(t *testing.T) {
	for _, phase := range []string{snapshot.GroupInqueue, snapshot.GroupPending, snapshot.GroupUnknown, snapshot.GroupRunning} {
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n1 cpu=8 gpu=2", "group g min=2", "pods g w 2 gpu=1", "cycle", "lose g-w-1",
			"group urgent min=1 priority=9", "pods urgent w 1 gpu=1",
		} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		w.Gang("g").Status.Phase = phase
		p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
		if len(p.Placements) != 1 || p.Placements[0].Name != "g" {
			t.Errorf("%s: the plan is\n%s", phase, p)
		}
	}
}
