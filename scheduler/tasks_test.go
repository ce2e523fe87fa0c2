package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// withLeader writes a gang with a leader that it does not start without.
func withLeader(in func(lo, hi int) int, add func(string, ...any), name, options string) (pods []string) {
	workers := in(1, 4)
	least := in(1, workers)
	add("group %s min=%d %s task.l=1 task.w=%d", name, in(1+least, 1+workers), options, in(0, least))
	add("pods %s l 1 cpu=1 gpu=%d priority=%d", name, in(0, 2), in(0, 2))
	add("pods %s w %d cpu=1 gpu=%d priority=%d", name, workers, in(1, 2), in(0, 1))
	return append(numbered("w", workers), "l-0")
}

// ofParts writes a gang of parts that are placed whole or not at all, some of which it can
// do without.
func ofParts(in func(lo, hi int) int, add func(string, ...any), name, options string) (pods []string) {
	size, parts := in(1, 2), in(1, 3)
	least := in(1, parts)
	add("group %s min=%d %s sub=p,size=%d,min=%d", name, in(1, least*size), options, size, least)
	gpus := in(0, 2)
	for i := range parts {
		add("pods %s w %d cpu=1 gpu=%d part=p/%d priority=%d", name, size, gpus, i, in(0, 2))
	}
	return numbered("w", size*parts)
}

func numbered(task string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", task, i))
	}
	return out
}

// historyOfMembers writes a history of gangs whose single members fail and are made anew,
// and which are scaled up.
func historyOfMembers(r *rand.Rand, write func(in func(lo, hi int) int, add func(string, ...any)) int,
	gang func(in func(lo, hi int) int, add func(string, ...any), name, options string) []string) []string {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for i := range in(1, 3) {
		add("node n%d cpu=16 gpu=%d", i, in(2, 8))
	}
	if in(0, 2) == 0 {
		add("virtual v shape=%d*cpu=8,gpu=%d", in(1, 3), in(1, 4))
	}
	queues := write(in, add)
	var gangs [][]string
	more := map[int]int{}
	for range in(12, 24) {
		switch r.IntN(7) {
		case 0, 1, 2:
			gangs = append(gangs, gang(in, add, fmt.Sprintf("g%d", len(gangs)), fmt.Sprintf("queue=q%d priority=%d", r.IntN(queues), r.IntN(3))))
		case 3:
			if len(gangs) > 0 {
				add("finish g%d", r.IntN(len(gangs)))
			}
		case 4, 5:
			if len(gangs) > 0 {
				g := r.IntN(len(gangs))
				pod := gangs[g][r.IntN(len(gangs[g]))]
				add("fail g%d-%s", g, pod)
				if r.IntN(3) > 0 {
					add("cycle")
				}
				add("restart g%d-%s", g, pod)
			}
		case 6:
			if len(gangs) > 0 {
				g := r.IntN(len(gangs))
				more[g]++
				add("pods g%d m%d %d cpu=1 gpu=1 priority=%d", g, more[g], in(1, 2), in(0, 3))
			}
		}
		add("cycle")
		if r.IntN(2) == 0 {
			add("settle 2m")
		}
	}
	return out
}

// TestContentionOfMembers plays them, of gangs with leaders and of gangs of parts, and every
// fourth on trees of queues that declare what they deserve. A gang
// gives up members of its own so that those it needs have room, and never more.
func TestContentionOfMembers(t *testing.T) {
	declared, cycles, own := capacityWith(t, ""), 0, 0
	for seed := range seeds(t) {
		pipe := schedtest.Pipeline()
		switch seed / 12 % 4 { // after each of the others
		case 1:
			pipe = schedtest.PipelineWithout("elastic")
		case 3:
			pipe = schedtest.PipelineWithout("elastic", "priority.enableTaskOrder")
		}
		pipe.Actions = append(slices.Clip(pipe.Actions), mutant{func(s *framework.Session) {
			for _, c := range s.Plan.Claims {
				own += ofItself(c)
			}
		}})
		gang, queues := withLeader, flat
		if seed%3 == 0 {
			gang = ofParts
		}
		if seed%4 == 1 {
			queues, pipe.Plugins = tree, declared.Plugins
		}
		script := historyOfMembers(rand.New(rand.NewPCG(uint64(seed), 1)), queues, gang)
		cycles += strings.Count(strings.Join(script, "\n"), "cycle")
		if err := play(pipe, script, rand.New(rand.NewPCG(uint64(seed), 2))); err != nil {
			script, err = shrinkBy(script, err, func(s []string) error { return play(pipe, s, rand.New(rand.NewPCG(0, 0))) })
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
	if own == 0 && seeds(t) > 100 {
		t.Error("no gang ever made room for itself")
	}
	t.Logf("%d histories, %d cycles, in which gangs gave up %d members of their own", seeds(t), cycles, own)
}

// ownStay: a gang gives up members for others of its own by preempt only if these all have a
// higher priority, and none at all when it has its minimum.
func ownStay(w *schedtest.World, p plan.Plan) error {
	for _, c := range p.Claims {
		if ofItself(c) == 0 || c.Moves() {
			continue
		}
		if hasMinimum(w.Gang(c.Name)) {
			return fmt.Errorf("gang %s gives up members for others and has its minimum", c.Name)
		}
		pods := map[string]*schedtest.Pod{}
		for _, pod := range w.Gang(c.Name).Pods {
			pods[pod.UID] = pod
		}
		for _, e := range c.Evictions {
			for _, np := range c.Nomination.Pods {
				if gone, comes := pods[e.UID], pods[np.UID]; c.Action == "preempt" && gone != nil && gone.Priority >= comes.Priority {
					return fmt.Errorf("%s of priority %d goes for %s of priority %d", gone.Name, gone.Priority, comes.Name, comes.Priority)
				}
			}
		}
	}
	return nil
}

func hasMinimum(g *schedtest.Gang) bool {
	of := &snapshot.Gang{GangSpec: g.GangSpec}
	for _, p := range g.Pods {
		of.Pods = append(of.Pods, &p.Pod)
	}
	return of.HasMinimum()
}

// ofItself counts the evictions from the gang that the claim is for.
func ofItself(c plan.Claim) (n int) {
	for _, e := range c.Evictions {
		if e.Gang == c.Gang {
			n++
		}
	}
	return n
}
