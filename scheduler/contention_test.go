package scheduler_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// seeds is how many histories of contention are tried: 500, or what
// ISTHMUS_SIMULATED_SEEDS says.
func seeds(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("ISTHMUS_SIMULATED_SEEDS"))
	if err != nil && os.Getenv("ISTHMUS_SIMULATED_SEEDS") != "" {
		t.Fatalf("ISTHMUS_SIMULATED_SEEDS: %v", err)
	}
	if n > 0 {
		return n
	}
	return 500
}

// history writes a random script: more gangs than a small cluster can hold, which
// come, run, end and take each other's place.
func history(r *rand.Rand) []string { return historyIn(r, flat) }

// flat writes queues side by side.
func flat(in func(lo, hi int) int, add func(string, ...any)) (queues int) {
	queues = in(1, 3)
	for i := range queues {
		add("queue q%d weight=%d", i, in(1, 3))
	}
	return queues
}

// tree writes queues below one another, with all that they may declare.
func tree(in func(lo, hi int) int, add func(string, ...any)) (queues int) {
	var options []string
	some := func(odds int, format string, a ...any) {
		if in(1, odds) == 1 {
			options = append(options, fmt.Sprintf(format, a...))
		}
	}
	own := func(name string, weight int) {
		some(6, "keep")
		some(6, "cap.gpu=%d", in(4, 12))
		some(2, "priority=%d", in(0, 1))
		add("queue %s weight=%d %s", name, weight, strings.Join(options, " "))
		options = nil
	}
	above, guaranteed := in(1, 2), map[string]int{}
	queues = in(2, 4)
	for i := range queues {
		if in(0, 3) > 0 {
			options = append(options, fmt.Sprintf("parent=t%d", in(0, above-1)))
		}
		deserved := in(0, 6)
		options = append(options, fmt.Sprintf("deserved.gpu=%d", deserved))
		if g := in(0, min(deserved, 2)); g > 0 && in(0, 1) == 0 {
			guaranteed[options[0]] += g
			options = append(options, fmt.Sprintf("guarantee.gpu=%d", g))
		}
		some(6, "keep")
		some(3, "priority=1")
		add("queue q%d weight=%d %s", i, in(1, 3), strings.Join(options, " "))
		options = nil
	}
	for i := range above {
		name := fmt.Sprintf("t%d", i)
		guarantee := guaranteed["parent="+name]
		options = append(options, fmt.Sprintf("deserved.gpu=%d", max(guarantee, in(2, 10))))
		if guarantee > 0 {
			options = append(options, fmt.Sprintf("guarantee.gpu=%d", guarantee))
		}
		own(name, in(1, 3))
	}
	return queues
}

func historyIn(r *rand.Rand, write func(in func(lo, hi int) int, add func(string, ...any)) int) []string {
	in := func(lo, hi int) int { return lo + r.IntN(hi-lo+1) }
	var out []string
	add := func(format string, a ...any) { out = append(out, fmt.Sprintf(format, a...)) }
	for i := range in(1, 3) {
		add("node n%d cpu=16 gpu=%d", i, in(2, 8))
	}
	for i := range in(0, 2) {
		add("virtual v%d shape=%d*cpu=8,gpu=%d", i, in(1, 3), in(1, 4))
	}
	queues := write(in, add)
	gangs := 0
	for range in(12, 24) {
		switch r.IntN(6) {
		case 0, 1, 2:
			size := in(1, 4)
			options := fmt.Sprintf("group g%d min=%d queue=q%d priority=%d", gangs, in(1, size), r.IntN(queues), r.IntN(3))
			if r.IntN(2) == 0 {
				options += fmt.Sprintf(" estimate=%dm", in(1, 120))
			}
			add("%s", options)
			pods := fmt.Sprintf("pods g%d w %d cpu=1 gpu=%d", gangs, size, in(0, 4))
			if r.IntN(8) == 0 {
				pods += " protected=test"
			}
			add("%s", pods)
			gangs++
		case 3:
			if gangs > 0 {
				add("finish g%d", r.IntN(gangs))
			}
		case 4:
			add("settle %dm", in(2, 60))
		}
		add("cycle")
		if r.IntN(2) == 0 {
			add("settle 2m")
		}
	}
	return out
}

// play runs a script and checks every invariant after every event.
func play(pipe framework.Pipeline, script []string, r *rand.Rand) error {
	w := schedtest.NewWorld()
	for i, line := range script {
		if line != "cycle" {
			if _, err := w.Do(line); err != nil {
				return errBadScript
			}
			if err := check(w); err != nil {
				return fmt.Errorf("line %d: %w", i+1, err)
			}
			continue
		}
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		if err := sameWhenShuffled(pipe, w, p, r); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		if err := sameListedAnew(pipe, w, p); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		if err := sameClassByClass(pipe, w, p, r); err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		if err := noneTooMany(pipe, w, p); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := ownStay(w, p); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := guaranteesStay(w, p); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		w.Apply(p)
		if err := check(w); err != nil { // R6 and R7
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := protectedStay(w); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
		if err := claimsAreKept(pipe, w, p); err != nil {
			return fmt.Errorf("line %d: %w\n%s", i+1, err, p)
		}
	}
	if err := comesToRest(pipe, w); err != nil {
		return err
	}
	return drains(pipe, w)
}

var errBadScript = errors.New("not a script")

// sameWhenShuffled is R15: the same data in another order, on another number of
// processors, gives the same plan to the byte.
func sameWhenShuffled(pipe framework.Pipeline, w *schedtest.World, p plan.Plan, r *rand.Rand) error {
	if r.IntN(4) != 0 {
		return nil
	}
	was := runtime.GOMAXPROCS(1 + r.IntN(2))
	defer runtime.GOMAXPROCS(was)
	d := w.Document()
	for i := range d.Gangs {
		r.Shuffle(len(d.Gangs[i].Pods), func(a, b int) {
			d.Gangs[i].Pods[a], d.Gangs[i].Pods[b] = d.Gangs[i].Pods[b], d.Gangs[i].Pods[a]
		})
	}
	r.Shuffle(len(d.Gangs), func(a, b int) { d.Gangs[a], d.Gangs[b] = d.Gangs[b], d.Gangs[a] })
	r.Shuffle(len(d.Nodes), func(a, b int) { d.Nodes[a], d.Nodes[b] = d.Nodes[b], d.Nodes[a] })
	r.Shuffle(len(d.Queues), func(a, b int) { d.Queues[a], d.Queues[b] = d.Queues[b], d.Queues[a] })
	s, err := d.Build()
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	if got, want := fmt.Sprintf("%+v", scheduler.Cycle(pipe, s, w.Now)), fmt.Sprintf("%+v", p); got != want {
		return fmt.Errorf("plans differ:\n%s\n%s", want, got)
	}
	return nil
}

// guaranteesStay: what is reclaimed leaves each queue, and those above it, what they are
// guaranteed, as far as they had it, with what they get in the same cycle.
func guaranteesStay(w *schedtest.World, p plan.Plan) error {
	queues, of, taken := map[string]snapshot.Queue{}, map[string]string{}, map[string]bool{}
	for _, q := range w.Queues {
		queues[q.Name] = q
	}
	up := func(name string, add func(queue string)) {
		for range len(queues) + 1 {
			if q, ok := queues[name]; ok {
				add(name)
				name = q.Parent
			}
		}
	}
	for _, g := range w.Gangs {
		of[g.Key] = g.Queue
	}
	for _, c := range p.Claims {
		for _, e := range c.Evictions {
			if c.Action == "reclaim" {
				up(of[e.Gang], func(q string) { taken[q] = true })
				up(of[c.Gang], func(q string) { delete(taken, q) })
			}
		}
	}
	left := int64(0)
	for _, n := range w.Nodes {
		left += n.Allocatable.Get("nvidia.com/gpu")
	}
	for _, q := range w.Queues {
		if _, below := queues[q.Parent]; !below {
			left -= q.Guarantee.Get("nvidia.com/gpu")
		}
	}
	if len(taken) == 0 || left < 0 {
		return nil // more is guaranteed than there is: each queue is, by less than it says
	}
	hold := func(w *schedtest.World) map[string]int64 {
		held := map[string]int64{}
		for _, g := range w.Gangs {
			for _, pod := range g.Pods {
				if pod.Counts() && !pod.Terminal() || g.Nominated != nil && g.Nominated.Until > w.Now.UnixNano() &&
					slices.ContainsFunc(g.Nominated.Pods, func(n snapshot.NominatedPod) bool { return n.UID == pod.UID }) {
					up(g.Queue, func(q string) { held[q] += gpus(pod) })
				}
			}
		}
		return held
	}
	after := w.Clone()
	after.Apply(p)
	had, has := hold(w), hold(after)
	for name := range taken {
		if floor := min(queues[name].Guarantee.Get("nvidia.com/gpu"), had[name]); has[name] < floor {
			return fmt.Errorf("queue %s held %d GPUs and is guaranteed %d, and %d are left of it", name, had[name], floor, has[name])
		}
	}
	return nil
}

func gpus(p *schedtest.Pod) (n int64) {
	for _, q := range p.Needs.Requests {
		if q.Name == "nvidia.com/gpu" {
			n += q.Amount
		}
	}
	return n
}

func protectedStay(w *schedtest.World) error {
	for _, p := range w.Pods("") {
		if p.Protected != "" && p.Terminating {
			return fmt.Errorf("protected pod %s was evicted", p.Name)
		}
	}
	return nil
}

// claimsAreKept is R8: when those that were evicted have gone and nothing else
// happens, the gang that they went for is placed.
func claimsAreKept(pipe framework.Pipeline, w *schedtest.World, p plan.Plan) error {
	if !slices.ContainsFunc(p.Claims, func(c plan.Claim) bool { return len(c.Evictions) > 0 }) {
		return nil
	}
	after := w.Clone()
	after.Settle(time.Second)
	var next plan.Plan
	for range 2 { // a gang that lost all its pods is let in again first
		next = scheduler.Cycle(pipe, after.Snapshot(), after.Now)
		after.Apply(next)
	}
	if err := movedAreKept(after, p); err != nil {
		return fmt.Errorf("%w:\n%s", err, next)
	}
	for _, c := range p.Claims {
		if g := after.Gang(c.Name); !whole(g) {
			return fmt.Errorf("%d pods were evicted for gang %s, which has %d of %d members afterwards:\n%s", len(c.Evictions), c.Name, placed(g), g.MinMember, next)
		}
	}
	return nil
}

// comesToRest is R8: without events from outside nothing happens any more after a
// while, however much could still be taken from one another.
func comesToRest(pipe framework.Pipeline, start *schedtest.World) error {
	w := start.Clone()
	bound := 4*len(w.Gangs) + 8
	var last plan.Plan
	for range bound {
		last = scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		w.Apply(last)
		if err := check(w); err != nil {
			return fmt.Errorf("coming to rest: %w\n%s", err, last)
		}
		if len(last.Placements) == 0 && len(last.Claims) == 0 && !slices.ContainsFunc(w.Pods(""), func(p *schedtest.Pod) bool { return p.Terminating }) {
			return nil
		}
		w.Settle(2 * time.Minute)
	}
	return fmt.Errorf("no rest after %d rounds:\n%s", bound, last)
}

// drains is R9: when all that runs ends, and ends again, whoever had a planned
// start is placed, three cycles after those that the order puts before it.
func drains(pipe framework.Pipeline, start *schedtest.World) error {
	w := start.Clone()
	for _, p := range w.Pods("") {
		if p.Phase == snapshot.PodFailed {
			w.Replace(p) // as its owner does
		}
	}
	p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
	w.Apply(p)
	if len(p.Heads) == 0 {
		return nil
	}
	name := strings.TrimPrefix(p.Heads[0].Gang, "podgroup/default/")
	for range len(w.Gangs) + 3 {
		w.Settle(2 * time.Minute)
		for _, g := range w.Gangs {
			if g.Name != name {
				w.Finish(g.Name)
			}
		}
		w.Apply(scheduler.Cycle(pipe, w.Snapshot(), w.Now))
		if g := w.Gang(name); whole(g) {
			return nil
		}
	}
	return fmt.Errorf("gang %s had a planned start and is not placed in the empty cluster:\n%s", name, p)
}

// TestContention plays random histories, every third with queues below one another and,
// of those, every other with what queues declare in the place of weights. A failure
// is shown as the shortest script that still fails, to be kept in testdata.
func TestContention(t *testing.T) {
	declared, near := capacityWith(t, ""), capacityWith(t, ", arguments: {ancestorReclaimLevel: 0}")
	cycles, trees, taken := 0, 0, 0
	for seed := range seeds(t) {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		queues, pipe := flat, schedtest.Pipeline()
		if seed%3 == 2 {
			queues, trees = tree, trees+1
			switch seed % 4 {
			case 0:
				pipe = declared
			case 2:
				pipe = near
			}
			pipe.Actions = append(slices.Clip(pipe.Actions), mutant{func(s *framework.Session) {
				taken += len(slices.DeleteFunc(slices.Clone(s.Plan.Claims), func(c plan.Claim) bool { return c.Action != "reclaim" }))
			}})
		}
		script := historyIn(r, queues)
		cycles += strings.Count(strings.Join(script, "\n"), "cycle")
		if err := play(pipe, script, rand.New(rand.NewPCG(uint64(seed), 2))); err != nil {
			script, err = shrinkBy(script, err, func(s []string) error { return play(pipe, s, rand.New(rand.NewPCG(0, 0))) })
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
	if taken == 0 && trees > 100 {
		t.Errorf("%d times room was reclaimed among queues of %d trees", taken, trees)
	}
	t.Logf("%d histories, %d cycles, %d trees, in which room was reclaimed %d times", seeds(t), cycles, trees, taken)
}

func shrinkBy(script []string, err error, play func([]string) error) ([]string, error) {
	for size := len(script) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(script); {
			shorter := slices.Delete(slices.Clone(script), at, at+size)
			if e := play(shorter); e != nil && !errors.Is(e, errBadScript) {
				script, err = shorter, e
			} else {
				at += size
			}
		}
	}
	return script, err
}
