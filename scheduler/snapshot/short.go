package snapshot

import (
	"fmt"
	"slices"
)

// Whole is a gang's minimum, and those of its tasks.
type Whole struct {
	Min   int64         `json:"min"`
	Tasks []TaskMinimum `json:"tasks,omitempty"`
}

// NoteWhole remembers what the gang needs if it has that, and forgets it when the gang
// holds nothing any more. It is called whenever a gang has changed, before Short. A
// binding that may fail yet gives it nothing.
func (g *Gang) NoteWhole() {
	switch {
	case !g.holds():
		g.Whole = nil
	case g.UnderWay():
	case g.lacks(Whole{g.Minimum(), g.TaskMinimums()}, (*Pod).left) == "":
		g.Whole = &Whole{g.Minimum(), g.TaskMinimums()}
	}
}

// Short reports whether the gang holds places that are of no use to it: too few of
// its members are left for its minimum, or an attempt lacks members and nobody has
// taken it up. Members that have ended by themselves, well or not, have had their
// run: what follows from that is their owner's business.
func (g *Gang) Short() bool {
	if g.Plain || g.Absent {
		return false
	}
	return g.holds() && g.Lacks() != "" || len(g.OpenAttempts()) > 0
}

// Lacks says in a clause what the gang has lost of its minimum, "" for nothing. A
// minimum that was raised since the gang last had it is no loss: what runs of it is of
// use while the others wait.
func (g *Gang) Lacks() string {
	need := Whole{g.Minimum(), g.TaskMinimums()}
	if w := g.Whole; w != nil {
		need.Min = min(need.Min, w.Min)
		var tasks []TaskMinimum
		for _, t := range need.Tasks {
			if i := slices.IndexFunc(w.Tasks, func(o TaskMinimum) bool { return o.Task == t.Task }); i >= 0 {
				tasks = append(tasks, TaskMinimum{Task: t.Task, Min: min(t.Min, w.Tasks[i].Min)})
			}
		}
		need.Tasks = tasks
	}
	return g.lacks(need, (*Pod).left)
}

// HasMinimum reports whether so many members of the gang are placed and alive, or have
// succeeded, that nothing more is needed, in all, of each task and of each policy for parts.
func (g *Gang) HasMinimum() bool {
	return g.lacks(Whole{g.Minimum(), g.TaskMinimums()}, (*Pod).Counts) == ""
}

func (g *Gang) lacks(need Whole, counts func(*Pod) bool) string {
	if n := g.count(counts); n < need.Min {
		return fmt.Sprintf("%d of the %d members that it needs are left", n, need.Min)
	}
	for _, t := range need.Tasks {
		if n := g.count(func(p *Pod) bool { return p.Task == t.Task && counts(p) }); n < t.Min {
			return fmt.Sprintf("%d of the %d members that it needs of task %q are left", n, t.Min, t.Task)
		}
	}
	if len(g.SubGroups) == 0 {
		return ""
	}
	ready := map[*SubGroup]int64{}
	for _, part := range g.Parts() {
		var n int64
		for _, p := range part.Pods {
			if counts(p) {
				n++
			}
		}
		if n >= part.Need() {
			ready[part.Policy]++
		}
	}
	for i := range g.SubGroups {
		if p := &g.SubGroups[i]; ready[p] < p.Min {
			return fmt.Sprintf("%d of the %d parts of policy %q that it needs are left whole", ready[p], p.Min, p.Name)
		}
	}
	return ""
}

// UnderWay reports whether bindings of members were sent that are not confirmed.
func (g *Gang) UnderWay() bool {
	return slices.ContainsFunc(g.Pods, func(p *Pod) bool { return p.Assumed })
}

func (g *Gang) holds() bool {
	for _, p := range g.Pods {
		if p.Lives() {
			return true
		}
	}
	return false
}

// Lives reports whether the pod has a place and is neither done nor going away.
func (p *Pod) Lives() bool { return p.Node != "" && !p.Terminal() && !p.Terminating }

// left reports whether the pod is placed, or has had its run.
func (p *Pod) left() bool { return p.Counts() || p.Phase == PodFailed && !p.Lost }

// Left counts the members that are placed or have ended by themselves.
func (g *Gang) Left() int64 { return g.count((*Pod).left) }

func (g *Gang) count(counts func(*Pod) bool) (n int64) {
	for _, p := range g.Pods {
		if counts(p) {
			n++
		}
	}
	return n
}

// OpenAttempts lists the ids of the attempts that lack members and that nobody has
// taken up, in order.
func (g *Gang) OpenAttempts() []string {
	type attempt struct {
		size, members int64
		closed        bool
	}
	var by map[string]*attempt
	var out []string
	for _, p := range g.Pods {
		if p.Attempt == "" || p.Node == "" || p.Size <= 1 {
			continue
		}
		a := by[p.Attempt]
		if a == nil {
			if by == nil {
				by = map[string]*attempt{}
			}
			a = &attempt{}
			by[p.Attempt] = a
		}
		a.size, a.members = max(a.size, p.Size), a.members+1
		a.closed = a.closed || p.Submitted || p.Phase != PodPending || p.Terminating
	}
	for id, a := range by {
		if !a.closed && a.members < a.size {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}
