// Package tasktopology puts pods of a gang on one node, or on different ones, by
// their tasks, as its PodGroup's annotations wish: Volcano's task-topology. It is a
// wish: a gang that fits is placed in any case. On a virtual node the batch system
// chooses the hosts.
package tasktopology

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plugin scores nodes by the gang's members there. It is configuration alone.
type Plugin struct{ Weight int64 }

// Name is the plugin's name in configuration.
func (Plugin) Name() string { return "task-topology" }

// Mates is about gangs with a task topology.
func (p Plugin) Mates(g *snapshot.Gang) framework.Mates {
	if g.Tasks == nil || p.Weight == 0 {
		return nil
	}
	w := &wish{weight: p.Weight, pulls: map[pair]bool{}, pushes: map[pair]bool{}, rank: map[string]int{}, order: map[string]int{}}
	// A task whose own pods repel each other is the hardest to place, one that only
	// keeps away from others the easiest.
	w.relate(w.pulls, g.Tasks.Together, 2, 3)
	w.relate(w.pushes, g.Tasks.Apart, 4, 1)
	for i, task := range g.Tasks.Order {
		w.order[task] = len(g.Tasks.Order) - i
	}
	return w
}

type pair struct{ a, b string }

// wish is what one gang wants.
type wish struct {
	weight        int64
	pulls, pushes map[pair]bool
	rank          map[string]int // how hard a task is to place; 0 does not care
	order         map[string]int
}

// relate notes sets of tasks, with the rank of those alone in theirs and of others.
func (w *wish) relate(to map[pair]bool, sets [][]string, alone, among int) {
	for _, set := range sets {
		if len(set) == 1 {
			to[pair{set[0], set[0]}] = true
			w.rank[set[0]] = max(w.rank[set[0]], alone)
			continue
		}
		for i, a := range set {
			w.rank[a] = max(w.rank[a], among)
			for _, b := range set[:i] {
				if a != b {
					to[pair{a, b}], to[pair{b, a}] = true, true
				}
			}
		}
	}
}

// bonds is how many pods attract one of a task, of those near, less those there that
// repel it.
func (w *wish) bonds(task string, there, near func(task string) int64) int64 {
	var n int64
	for p := range w.pulls {
		if p.a == task {
			n = resource.Add(n, near(p.b))
		}
	}
	for p := range w.pushes {
		if p.a == task {
			n = resource.Sub(n, there(p.b))
		}
	}
	return n
}

// set is pods that are to be together.
type set struct {
	pods  []*snapshot.Pod
	tasks map[string]int64
	share int64 // what they ask for, as a sum of amounts, to balance sets by
}

// Sets has each pod join the set that attracts it most, of those equal the smaller
// one, or begin one of its own where all repel it. Larger sets come first, and pods
// of tasks that do not care come last.
func (w *wish) Sets(pods []*snapshot.Pod) [][]*snapshot.Pod {
	pods = slices.Clone(pods)
	slices.SortStableFunc(pods, func(a, b *snapshot.Pod) int {
		if d := w.order[b.Task] - w.order[a.Task]; d != 0 {
			return d
		}
		return w.rank[b.Task] - w.rank[a.Task]
	})
	var sets []*set
	var rest []*snapshot.Pod
	for _, p := range pods {
		if w.rank[p.Task] == 0 {
			rest = append(rest, p)
			continue
		}
		s := w.join(sets, p)
		if s == nil {
			s = &set{tasks: map[string]int64{}}
			sets = append(sets, s)
		}
		s.pods = append(s.pods, p)
		s.tasks[p.Task]++
		for _, a := range p.Class.Request {
			s.share = resource.Add(s.share, a)
		}
	}
	slices.SortStableFunc(sets, func(a, b *set) int { return len(b.pods) - len(a.pods) })
	out := make([][]*snapshot.Pod, 0, len(sets)+1)
	for _, s := range sets {
		out = append(out, s.pods)
	}
	if len(rest) > 0 {
		out = append(out, rest)
	}
	return out
}

func (w *wish) join(sets []*set, p *snapshot.Pod) *set {
	var best *set
	var most int64
	for _, s := range sets {
		in := func(task string) int64 { return s.tasks[task] }
		n := w.bonds(p.Task, in, in)
		if n < 0 {
			continue
		}
		if best == nil || n > most || n == most && s.share < best.share {
			best, most = s, n
		}
	}
	return best
}

// Score counts the pods that are there, and those of the set that would follow, as
// a part of all. Pods of other sets do not attract, lest all sets end in one place.
func (w *wish) Score(task string, there, near func(task string) int64, with, all int64) int64 {
	if w.rank[task] == 0 {
		return 0
	}
	return resource.Add(w.bonds(task, there, near), with) * fill.Most / max(all+1, 1) * w.weight
}
