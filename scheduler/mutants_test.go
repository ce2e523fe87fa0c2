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

// mutant spoils the plans of a cycle in one way.
type mutant struct {
	spoil func(*framework.Session)
}

// Name is that of an action.
func (mutant) Name() string { return "mutant" }

// Run spoils the plan.
func (m mutant) Run(s *framework.Session) { m.spoil(s) }

// TestInvariantsCanFail plays the histories of TestContention with schedulers that
// are wrong in one way each: the invariant that is to notice does within a few
// seeds, and what is shown is a script that is shorter and still fails.
func TestInvariantsCanFail(t *testing.T) {
	flip := 0
	for _, c := range []struct {
		name, says string
		spoil      func(*framework.Session)
	}{
		{"R6: a member of each gang is forgotten", "members", func(s *framework.Session) {
			for i := range s.Plan.Placements {
				if b := &s.Plan.Placements[i].Binds; len(*b) > 1 {
					*b = (*b)[1:]
				}
			}
		}},
		{"R7: all go to the first node", "node ", func(s *framework.Session) {
			for i := range s.Plan.Placements {
				for k := range s.Plan.Placements[i].Binds {
					s.Plan.Placements[i].Binds[k].Node = s.Snapshot.Nodes[0].Name
				}
			}
		}},
		{"R8: those for whom others went are not placed", "were evicted for", func(s *framework.Session) {
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool { return s.Snapshot.Gang(p.Gang).Nominated != nil })
		}},
		{"R8: one gang too many is evicted", "more than needed", func(s *framework.Session) {
			for i := range s.Plan.Claims {
				for _, g := range s.Snapshot.Gangs {
					if c := &s.Plan.Claims[i]; len(c.Evictions) > 0 && len(evictions(g)) > 0 && g.Key != c.Gang && !slices.ContainsFunc(s.Plan.Claims, func(c plan.Claim) bool { return evicts(c, g.Key) }) {
						for _, e := range evictions(g) {
							e.Whole = true
							c.Evictions = append(c.Evictions, e)
						}
						return
					}
				}
			}
		}},
		{"R8: whoever runs is evicted for another, again and again", "no rest", func(s *framework.Session) {
			for _, g := range s.Snapshot.Gangs {
				if g.Have() > 0 && len(s.Plan.Claims) == 0 {
					release(s, g)
					return
				}
			}
		}},
		{"R9: the gang with a planned start is forgotten", "had a planned start", func(s *framework.Session) {
			s.Plan.Placements = slices.DeleteFunc(s.Plan.Placements, func(p plan.Placement) bool { return p.Gang == "podgroup/default/g2" })
		}},
		{"R15: a plan says how often it was made", "plans differ", func(s *framework.Session) {
			flip++
			s.Plan.Unschedulable = append(s.Plan.Unschedulable, plan.Unschedulable{Message: fmt.Sprint(flip)})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pipe := schedtest.Pipeline()
			pipe.Actions = append(slices.Clone(pipe.Actions), mutant{c.spoil})
			said := map[string]bool{}
			for seed := range 60 {
				script := history(rand.New(rand.NewPCG(uint64(seed), 1)))
				again := func(s []string) error { return play(pipe, s, rand.New(rand.NewPCG(uint64(seed), 2))) }
				err := again(script)
				if err == nil || !strings.Contains(err.Error(), c.says) {
					said[fmt.Sprint(err)] = true
					continue
				}
				short, err := shrinkBy(script, err, again)
				if len(short) >= len(script) || again(short) == nil {
					t.Errorf("seed %d: %v\nis shown by %d of %d lines:\n%s", seed, err, len(short), len(script), strings.Join(short, "\n"))
				}
				if err := play(schedtest.Pipeline(), short, rand.New(rand.NewPCG(uint64(seed), 2))); err != nil {
					t.Errorf("seed %d: the script fails without the mutant: %v", seed, err)
				}
				t.Logf("seed %d, %d lines of %d: %.120v", seed, len(short), len(script), err)
				return
			}
			t.Errorf("nobody noticed in 60 histories; they said %.2000v", said)
		})
	}
}

// release sends all placed members of a gang away.
func release(s *framework.Session, g *snapshot.Gang) {
	s.Plan.Releases = append(s.Plan.Releases, evictions(g)...)
}

func evictions(g *snapshot.Gang) (out []plan.Eviction) {
	for _, p := range g.Pods {
		if p.Node != "" && !p.Terminal() {
			out = append(out, plan.Eviction{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Gang: g.Key, Node: p.Node})
		}
	}
	return out
}

func evicts(c plan.Claim, gang string) bool {
	return slices.ContainsFunc(c.Evictions, func(e plan.Eviction) bool { return e.Gang == gang })
}
