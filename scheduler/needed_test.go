package scheduler_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// noneTooMany is R8: of those that are evicted for a gang nobody could have stayed. If
// one did, the gang would not be placed, although nobody asks for the room but those
// that it is kept for.
func noneTooMany(pipe framework.Pipeline, before *schedtest.World, p plan.Plan) error {
	placing := pipe
	placing.Actions = nil
	for _, a := range pipe.Actions {
		if a.Name() == "enqueue" || a.Name() == "allocate" {
			placing.Actions = append(placing.Actions, a)
		}
	}
	if len(p.Releases) > 0 {
		return nil // what is sent back goes after others were, since it might have got its room
	}
	for i, c := range p.Claims {
		if c.Moves() || c.Action == "consolidate" {
			continue // where others go is part of what is found there
		}
		for _, stays := range together(before, c) {
			w := before.Clone()
			earlier := p
			earlier.Claims = p.Claims[:i]
			w.Apply(earlier)
			w.Settle(time.Second)
			pinKept(w, c.Gang)
			// Who only waits for what goes by itself has taken some of it before, if it was
			// looked at before.
			gate := func(on func(*schedtest.Gang) bool) {
				for _, g := range w.Gangs {
					needs := lacking(g) // what is beyond that is no reason to spare anybody
					for _, pod := range g.Pods {
						if pod.Node == "" && pod.Gate == "" {
							pod.Gated = on(g) || podByUID(before, pod.UID) != nil && podByUID(before, pod.UID).Gated || !needs[pod]
						}
					}
				}
			}
			kept := func(g *schedtest.Gang) bool {
				return g.Nominated != nil && g.Nominated.Until > w.Now.UnixNano() || expects(p, g.Key, c.Gang)
			}
			gate(func(g *schedtest.Gang) bool { return !kept(g) || g.Key == c.Gang })
			for range 2 { // a gang that lost all its pods is let in again first
				w.Apply(scheduler.Cycle(placing, w.Snapshot(), w.Now))
			}
			if slices.ContainsFunc(w.Gangs, func(g *schedtest.Gang) bool {
				return g.Key != c.Gang && expects(p, g.Key, c.Gang) && (!whole(g) || !whereExpected(p, g))
			}) {
				continue // others have gone elsewhere than was thought, which says nothing of this claim
			}
			for _, e := range c.Evictions {
				if !slices.Contains(stays, e.UID) {
					podByUID(w, e.UID).Terminating = true
				}
			}
			w.Settle(time.Second)
			gate(func(g *schedtest.Gang) bool { return !kept(g) && g.Key != c.Gang })
			next := scheduler.Cycle(placing, w.Snapshot(), w.Now)
			w.Apply(next)
			if (ofItself(c) > 0 || leaves(before.Gang(c.Name))) && elsewhere(c, next) {
				continue // what held the gang to one domain is gone: it was not looked for in the others
			}
			if g := w.Gang(c.Name); whole(g) {
				return fmt.Errorf("%d of the %d pods that go for gang %s are more than needed, %v:\n%s", len(stays), len(c.Evictions), c.Name, stays, next)
			}
		}
	}
	return nil
}

// leaves reports whether some of a gang's pods are going away, and hold it where they are
// until they have gone.
func leaves(g *schedtest.Gang) bool {
	return slices.ContainsFunc(g.Pods, func(p *schedtest.Pod) bool { return p.Terminating && p.Node != "" })
}

// elsewhere reports whether a plan places a gang in another domain than room was made in.
func elsewhere(c plan.Claim, next plan.Plan) bool {
	return slices.ContainsFunc(next.Placements, func(p plan.Placement) bool { return p.Gang == c.Gang && p.Domain != c.Nomination.Domain })
}

// whole reports whether a gang has its minimum, and those of its tasks and parts.
func whole(g *schedtest.Gang) bool {
	have := map[string]int64{}
	for _, p := range g.Pods {
		if p.Counts() {
			have[p.Task]++
		}
	}
	return placed(g) >= g.MinMember && !slices.ContainsFunc(g.MinTask, func(t snapshot.TaskMinimum) bool { return have[t.Task] < t.Min }) &&
		(len(g.SubGroups) == 0 || partsOf(g).ready >= g.SubGroups[0].Min)
}

// parts are those of a gang with one policy for them.
type parts struct {
	names   []string // those with the most members that are placed first
	placed  map[string]int64
	ready   int64 // how many have all they need
	partial []string
}

func partsOf(g *schedtest.Gang) parts {
	out := parts{placed: map[string]int64{}}
	for _, p := range g.Pods {
		if p.Policy == "" {
			continue
		}
		if !slices.Contains(out.names, p.PartOf()) {
			out.names = append(out.names, p.PartOf())
		}
		if p.Counts() {
			out.placed[p.PartOf()]++
		}
	}
	for _, name := range out.names {
		switch n := out.placed[name]; {
		case n >= g.SubGroups[0].Size:
			out.ready++
		case n > 0:
			out.partial = append(out.partial, name)
		}
	}
	slices.SortStableFunc(out.names, func(a, b string) int { return cmp.Compare(out.placed[b], out.placed[a]) })
	return out
}

// lacking picks pods that a gang needs to be whole, those of tasks that lack some first.
func lacking(g *schedtest.Gang) map[*schedtest.Pod]bool {
	out, have := map[*schedtest.Pod]bool{}, map[string]int64{}
	for _, p := range g.Pods {
		if p.Counts() {
			have[p.Task]++
		}
	}
	lack := g.MinMember - placed(g)
	take := func(wanted func(*schedtest.Pod) bool) {
		for _, p := range g.Pods {
			if p.Node == "" && p.Gate == "" && !out[p] && wanted(p) {
				out[p], have[p.Task], lack = true, have[p.Task]+1, lack-1
			}
		}
	}
	for _, t := range g.MinTask {
		take(func(p *schedtest.Pod) bool { return p.Task == t.Task && have[t.Task] < t.Min })
	}
	if len(g.SubGroups) > 0 {
		ps := partsOf(g)
		for _, part := range ps.names[:min(int64(len(ps.names)), g.SubGroups[0].Min)] {
			take(func(p *schedtest.Pod) bool {
				if p.PartOf() == part {
					ps.placed[part]++
				}
				return p.PartOf() == part && ps.placed[part] <= g.SubGroups[0].Size
			})
		}
	}
	take(func(*schedtest.Pod) bool { return lack > 0 })
	return out
}

// expects reports whether a gang that was looked at before another waits for what goes by
// itself. Who was looked at after it may wait for what goes for that one.
func expects(p plan.Plan, gang, before string) bool {
	at := func(key string) int {
		return slices.IndexFunc(p.Unschedulable, func(u plan.Unschedulable) bool { return u.Gang == key })
	}
	i := at(gang)
	return i >= 0 && i < at(before) && p.Unschedulable[i].Code == plan.Nominated
}

// whereExpected reports whether a gang is in the domain whose pods it waits for to go, or else
// in which its start was planned.
func whereExpected(p plan.Plan, g *schedtest.Gang) bool {
	want := ""
	if i := slices.IndexFunc(p.Heads, func(h plan.Head) bool { return h.Gang == g.Key }); i >= 0 {
		want = p.Heads[i].Domain
	}
	if i := slices.IndexFunc(p.Unschedulable, func(u plan.Unschedulable) bool { return u.Gang == g.Key }); i >= 0 {
		if _, at, found := strings.Cut(p.Unschedulable[i].Message, "waits for pods on "); found {
			want, _, _ = strings.Cut(at, " ")
		}
	}
	return want == "" || !slices.ContainsFunc(g.Pods, func(pod *schedtest.Pod) bool {
		domain := pod.Node
		if domain != "" && domain[0] != 'v' {
			domain = plan.RealDomain
		}
		return domain != "" && domain != want
	})
}

// pinKept puts all but one gang where room is kept for them.
func pinKept(w *schedtest.World, but string) {
	for _, g := range w.Gangs {
		if g.Key == but || g.Nominated == nil || g.Nominated.Until <= w.Now.UnixNano() {
			continue
		}
		for i, np := range g.Nominated.Pods {
			if pod := podByUID(w, np.UID); pod != nil && pod.Waits() {
				pod.Node, pod.Attempt, pod.Size, pod.Rank = np.Node, "kept-"+g.Name, int64(len(g.Nominated.Pods)), int64(i)
			}
		}
	}
}

func podByUID(w *schedtest.World, uid string) *schedtest.Pod {
	for _, p := range w.Pods("") {
		if p.UID == uid {
			return p
		}
	}
	return nil
}

// together lists who of those that go for a gang can stay by themselves: a gang that
// goes as a whole, one pod that a gang can do without, or all of a batch job or of a part.
func together(w *schedtest.World, c plan.Claim) (out [][]string) {
	at := map[string]int{}
	for _, e := range c.Evictions {
		key := e.UID
		switch {
		case e.Whole:
			key = e.Gang
		case e.Node[0] == 'v':
			key = podByUID(w, e.UID).Attempt
		case podByUID(w, e.UID).PartOf() != "":
			key = e.Gang + podByUID(w, e.UID).PartOf()
		}
		if _, ok := at[key]; !ok {
			at[key] = len(out)
			out = append(out, nil)
		}
		out[at[key]] = append(out[at[key]], e.UID)
	}
	return out
}
