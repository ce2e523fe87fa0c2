package snapshot

import (
	"fmt"
	"slices"
)

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

// Lacks says in a clause what the gang lacks of its minimum, "" for nothing.
func (g *Gang) Lacks() string {
	if n := g.Left(); n < g.Minimum() {
		return fmt.Sprintf("%d of the %d members that it needs are left", n, g.Minimum())
	}
	for _, t := range g.TaskMinimums() {
		if n := g.leftOf(t.Task); n < t.Min {
			return fmt.Sprintf("%d of the %d members that it needs of task %q are left", n, t.Min, t.Task)
		}
	}
	return ""
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
func (g *Gang) Left() int64 {
	var n int64
	for _, p := range g.Pods {
		if p.left() {
			n++
		}
	}
	return n
}

func (g *Gang) leftOf(task string) int64 {
	var n int64
	for _, p := range g.Pods {
		if p.Task == task && p.left() {
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
