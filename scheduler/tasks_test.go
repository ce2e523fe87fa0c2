package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// historyOfTasks writes a history of gangs with a leader that they do not start without,
// whose single members fail and are made anew, and which are scaled up.
func historyOfTasks(r *rand.Rand) []string {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for i := range in(1, 3) {
		add("node n%d cpu=16 gpu=%d", i, in(2, 8))
	}
	if in(0, 2) == 0 {
		add("virtual v shape=%d*cpu=8,gpu=%d", in(1, 3), in(1, 4))
	}
	queues := flat(in, add)
	type gang struct{ workers, more int }
	var gangs []gang
	for range in(12, 24) {
		switch r.IntN(7) {
		case 0, 1, 2:
			workers, name := in(1, 4), fmt.Sprintf("g%d", len(gangs))
			least := in(1, workers)
			add("group %s min=%d queue=q%d priority=%d task.l=1 task.w=%d", name, in(1+least, 1+workers), r.IntN(queues), r.IntN(3), in(0, least))
			add("pods %s l 1 cpu=1 gpu=%d", name, in(0, 2))
			add("pods %s w %d cpu=1 gpu=%d", name, workers, in(1, 2))
			gangs = append(gangs, gang{workers: workers})
		case 3:
			if len(gangs) > 0 {
				add("finish g%d", r.IntN(len(gangs)))
			}
		case 4, 5:
			if len(gangs) > 0 {
				pod, g := "l-0", r.IntN(len(gangs))
				if r.IntN(2) == 0 {
					pod = fmt.Sprintf("w-%d", r.IntN(gangs[g].workers))
				}
				add("fail g%d-%s", g, pod)
				if r.IntN(3) > 0 {
					add("cycle")
				}
				add("restart g%d-%s", g, pod)
			}
		case 6:
			if len(gangs) > 0 {
				g := r.IntN(len(gangs))
				gangs[g].more++
				add("pods g%d m%d %d cpu=1 gpu=1", g, gangs[g].more, in(1, 2))
			}
		}
		add("cycle")
		if r.IntN(2) == 0 {
			add("settle 2m")
		}
	}
	return out
}

// TestContentionOfTasks plays them. A gang gives up members of its own so that those it
// needs have room, and never more.
func TestContentionOfTasks(t *testing.T) {
	cycles, own := 0, 0
	for seed := range seeds(t) {
		pipe := schedtest.Pipeline()
		pipe.Actions = append(pipe.Actions[:len(pipe.Actions):len(pipe.Actions)], mutant{func(s *framework.Session) {
			for _, c := range s.Plan.Claims {
				own += ofItself(c)
			}
		}})
		script := historyOfTasks(rand.New(rand.NewPCG(uint64(seed), 1)))
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

// ofItself counts the evictions from the gang that the claim is for.
func ofItself(c plan.Claim) (n int) {
	for _, e := range c.Evictions {
		if e.Gang == c.Gang {
			n++
		}
	}
	return n
}
