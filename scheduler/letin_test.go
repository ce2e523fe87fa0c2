package scheduler_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// owned is a world whose gangs have no pods before they are let in, as those of Jobs.
type owned struct {
	*schedtest.World
	unmade map[string][]*schedtest.Pod
}

func (o owned) clone() owned {
	out := owned{o.World.Clone(), map[string][]*schedtest.Pod{}}
	for name, pods := range o.unmade {
		for _, p := range pods {
			c := *p
			out.unmade[name] = append(out.unmade[name], &c)
		}
	}
	return out
}

// do carries a line of a script out; pods are put aside until their gang is let in.
func (o owned) do(line string) error {
	if _, err := o.Do(line); err != nil {
		return errBadScript
	}
	words := strings.Fields(line)
	if words[0] != "pods" {
		return nil
	}
	g := o.Gang(words[1])
	o.unmade[g.Name], g.Pods, g.Status.Phase = g.Pods, nil, snapshot.GroupPending
	var all []resource.Quantity
	for _, q := range o.unmade[g.Name][0].Needs.Requests {
		all = append(all, resource.Quantity{Name: q.Name, Amount: q.Amount * g.MinMember})
	}
	g.MinResources = resource.MakeList(all...)
	return nil
}

// make makes the pods of those that were let in, or of one that was not.
func (o owned) make(anyway string) (some bool) {
	for _, g := range o.Gangs {
		pods, ok := o.unmade[g.Name]
		if ok && (g.Name == anyway || g.Status.Phase == snapshot.GroupInqueue) {
			g.Pods, g.Status.Phase, some = pods, snapshot.GroupInqueue, true
			delete(o.unmade, g.Name)
		}
	}
	return some
}

// rest lets the cluster go on without events from outside until nothing happens.
func (o owned) rest(pipe framework.Pipeline) error {
	quiet := 0 // one round tells of those that found no room, and the next knows of that
	for range 6*len(o.Gangs) + 12 {
		p := scheduler.Cycle(pipe, o.Snapshot(), o.Now)
		o.Apply(p)
		if err := check(o.World); err != nil {
			return fmt.Errorf("%w\n%s", err, p)
		}
		made := o.make("")
		if quiet++; made || len(p.Placements)+len(p.Claims) > 0 || slices.ContainsFunc(o.Pods(""), func(p *schedtest.Pod) bool { return p.Terminating }) {
			quiet = 0
		}
		if quiet == 2 {
			return nil
		}
		o.Settle(2 * time.Minute)
	}
	return errors.New("no rest")
}

// keptInVain is an error when somebody who is kept out would be placed, or have room made, if
// it had pods. It returns how many are kept out.
func keptInVain(pipe framework.Pipeline, at owned) (int, error) {
	o := at.clone()
	if err := o.rest(pipe); err != nil {
		return 0, err
	}
	n := 0
	for name := range o.unmade {
		n++
		with := o.clone()
		with.make(name)
		p := scheduler.Cycle(pipe, with.Snapshot(), with.Now)
		served := slices.ContainsFunc(p.Placements, func(p plan.Placement) bool { return p.Name == name }) ||
			slices.ContainsFunc(p.Claims, func(c plan.Claim) bool { return c.Name == name })
		if served {
			return n, fmt.Errorf("%s is kept out:\n%s\nand with pods:\n%s", name, scheduler.Cycle(pipe, o.Snapshot(), o.Now), p)
		}
	}
	return n, nil
}

// allRun has all that runs end, again and again, until everybody has run who can.
func allRun(pipe framework.Pipeline, at owned) error {
	o := at.clone()
	ran := map[string]bool{}
	for range len(o.Gangs) + 1 {
		if err := o.rest(pipe); err != nil {
			return err
		}
		for _, g := range o.Gangs {
			ran[g.Name] = ran[g.Name] || placed(g) >= g.MinMember
			o.Finish(g.Name)
		}
	}
	for _, g := range o.Gangs {
		if ran[g.Name] {
			continue
		}
		alone := o.clone()
		alone.Gangs = []*schedtest.Gang{alone.Gang(g.Name)}
		alone.make(g.Name)
		if len(scheduler.Cycle(pipe, alone.Snapshot(), alone.Now).Placements) > 0 {
			return fmt.Errorf("%s waits for ever:\n%s", g.Name, scheduler.Cycle(pipe, o.Snapshot(), o.Now))
		}
	}
	return nil
}

func playOwned(pipe framework.Pipeline, script []string) (kept int, err error) {
	o := owned{schedtest.NewWorld(), map[string][]*schedtest.Pod{}}
	for i, line := range script {
		if line != "cycle" {
			if err := o.do(line); err != nil {
				return kept, err
			}
			continue
		}
		o.Apply(scheduler.Cycle(pipe, o.Snapshot(), o.Now))
		o.make("")
		if i%3 > 0 && i+2 < len(script) {
			continue
		}
		n, err := keptInVain(pipe, o)
		kept += n
		if err != nil {
			return kept, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return kept, allRun(pipe, o)
}

// crowd is a history with more gangs at once, of which few can run.
func crowd(r *rand.Rand, queues func(func(lo, hi int) int, func(string, ...any)) int) []string {
	var out []string
	for _, line := range historyIn(r, queues) {
		out = append(out, line)
		if strings.HasPrefix(line, "pods ") && r.IntN(2) == 0 {
			group := slices.IndexFunc(out, func(l string) bool { return strings.HasPrefix(l, "group "+strings.Fields(line)[1]+" ") })
			for _, twin := range []string{"x", "y"} {
				for _, l := range []string{out[group], line} {
					words := strings.Fields(l)
					words[1] += twin
					out = append(out, strings.Join(words, " "))
				}
			}
		}
	}
	return out
}

// TestNobodyIsKeptOutInVain plays random histories of gangs that have no pods before they
// are let in: whoever is kept out, once nothing happens any more, finds no room either if
// it had pods, and takes it from nobody; and all run who can, once those before have ended.
func TestNobodyIsKeptOutInVain(t *testing.T) {
	kept := 0
	for seed := range max(seeds(t)/5, 1) {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		queues, text := flat, config.Standard
		if seed%2 == 1 {
			queues, text = tree, strings.Replace(text, "name: proportion", "name: capacity", 1)
		}
		pipe := pipelineOf(t, text+fmt.Sprintf("  - {name: overcommit, arguments: {overcommit-factor: %v}}\n", []string{"1", "1.2"}[r.IntN(2)]))
		script := crowd(r, queues)
		n, err := playOwned(pipe, script)
		kept += n
		if err != nil {
			script, err = shrinkBy(script, err, func(s []string) error { _, err := playOwned(pipe, s); return err })
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
	if kept == 0 {
		t.Error("nobody was ever kept out")
	}
	t.Logf("%d gangs were kept out", kept)
}
