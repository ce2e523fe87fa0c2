package allocate

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// chosen collects the members that have to be placed together.
type chosen struct {
	g       *snapshot.Gang
	waiting []*snapshot.Pod // in the order in which they are to be placed
	used    map[*snapshot.Pod]bool
	taken   map[*snapshot.Pod]bool
	must    []*snapshot.Pod
}

func (c *chosen) take(p *snapshot.Pod) {
	if !c.taken[p] {
		c.taken[p] = true
		c.must = append(c.must, p)
	}
}

func (c *chosen) has(p *snapshot.Pod) bool { return c.used[p] || c.taken[p] }

// minimum picks the members that must be placed together so that the gang has
// its minimum, or says why there are not enough of them. used are those that an
// earlier attempt takes in this cycle, and have counts them in.
func minimum(g *snapshot.Gang, waiting []*snapshot.Pod, have int64, used []*snapshot.Pod) ([]*snapshot.Pod, *plan.Unschedulable) {
	if lacks := max(g.Minimum()-have, 0); len(g.SubGroups) == 0 && len(g.MinTask) == 0 && lacks <= int64(len(waiting)) {
		must := slices.Clone(waiting[:lacks]) // nothing to choose, as of nearly all
		slices.SortFunc(must, snapshot.ComparePods)
		return must, nil
	}
	c := &chosen{g: g, waiting: waiting, used: map[*snapshot.Pod]bool{}, taken: map[*snapshot.Pod]bool{}}
	for _, p := range used {
		c.used[p] = true
	}
	if u := c.tasks(); u != nil {
		return nil, u
	}
	parts := g.Parts()
	if u := c.parts(parts); u != nil {
		return nil, u
	}
	unready := map[string]*snapshot.Part{}
	for _, part := range parts {
		if part.Placed(c.has) < part.Need() {
			unready[part.Pods[0].PartOf()] = part
		}
	}
	for _, p := range waiting {
		if have+int64(len(c.must)) >= g.Minimum() {
			break
		}
		if part := unready[p.PartOf()]; part != nil {
			if !c.whole(part) {
				continue
			}
			delete(unready, p.PartOf())
		}
		c.take(p)
	}
	if have+int64(len(c.must)) < g.Minimum() {
		var exist int64
		for _, p := range g.Pods {
			if alive(p) {
				exist++
			}
		}
		return nil, tooFew(g, plan.NotEnoughPods, "the gang", "pods", exist, g.Minimum())
	}
	slices.SortFunc(c.must, snapshot.ComparePods)
	return c.must, nil
}

// tasks takes what the minimums of tasks need.
func (c *chosen) tasks() *plan.Unschedulable {
	minimums := c.g.TaskMinimums()
	if len(minimums) == 0 {
		return nil
	}
	placed, exist, waiting := map[string]int64{}, map[string]int64{}, map[string][]*snapshot.Pod{}
	for _, p := range c.g.Pods {
		if p.Counts() || c.used[p] {
			placed[p.Task]++
		}
		if alive(p) {
			exist[p.Task]++
		}
	}
	for _, p := range c.waiting {
		waiting[p.Task] = append(waiting[p.Task], p)
	}
	for _, t := range minimums {
		lacks := max(t.Min-placed[t.Task], 0)
		for _, p := range waiting[t.Task][:min(lacks, int64(len(waiting[t.Task])))] {
			c.take(p)
			lacks--
		}
		if lacks > 0 {
			return tooFew(c.g, plan.NotEnoughTaskPods, fmt.Sprintf("task %q", t.Task), "pods", exist[t.Task], t.Min)
		}
	}
	return nil
}

// parts takes what the policies for parts need: those that are placed in part
// already first, then in order.
func (c *chosen) parts(parts []*snapshot.Part) *plan.Unschedulable {
	// What the tasks chose breaks no part: its part is made whole.
	for _, part := range parts {
		if slices.ContainsFunc(part.Pods, func(p *snapshot.Pod) bool { return c.taken[p] }) && !c.whole(part) {
			return tooFew(c.g, plan.NotEnoughTaskPods, fmt.Sprintf("part %q", part.Pods[0].PartOf()), "pods", c.exist(part), part.Need())
		}
	}
	for i := range c.g.SubGroups {
		policy := &c.g.SubGroups[i]
		var ready, could int64
		var open []*snapshot.Part
		for _, part := range parts {
			if part.Policy != policy {
				continue
			}
			switch {
			case part.Placed(c.has) >= part.Need():
				ready++
				could++
			default:
				if c.exist(part) >= part.Need() {
					could++
				}
				open = append(open, part)
			}
		}
		slices.SortStableFunc(open, func(a, b *snapshot.Part) int { return int(b.Placed(c.has) - a.Placed(c.has)) })
		for _, part := range open {
			if ready >= policy.Min {
				break
			}
			if c.whole(part) {
				ready++
			}
		}
		if ready < policy.Min {
			return tooFew(c.g, plan.NotEnoughTaskPods, fmt.Sprintf("policy %q", policy.Name), fmt.Sprintf("whole parts of %d pods", max(policy.Size, 1)), could, policy.Min)
		}
	}
	return nil
}

func (c *chosen) exist(part *snapshot.Part) (n int64) {
	for _, p := range part.Pods {
		if alive(p) {
			n++
		}
	}
	return n
}

// whole takes what a part lacks to be placed at all and reports whether it is
// there; otherwise nothing is taken.
func (c *chosen) whole(part *snapshot.Part) bool {
	lacks := part.Need() - part.Placed(c.has)
	var found []*snapshot.Pod
	for _, p := range c.waiting {
		if lacks <= int64(len(found)) {
			break
		}
		if !c.taken[p] && p.PartOf() == part.Pods[0].PartOf() {
			found = append(found, p)
		}
	}
	if int64(len(found)) < lacks {
		return false
	}
	for _, p := range found {
		c.take(p)
	}
	return true
}

// next picks what a gang that has its minimum gets next: one pod, or as many as
// its part needs to be placed at all, unless the gang was scaled down and something of
// the part is placed. It is nil when only parts wait of which there are too few pods.
func next(g *snapshot.Gang, waiting, used []*snapshot.Pod) []*snapshot.Pod {
	c := &chosen{g: g, waiting: waiting, used: map[*snapshot.Pod]bool{}, taken: map[*snapshot.Pod]bool{}}
	for _, p := range used {
		c.used[p] = true
	}
	parts := g.Parts()
	for _, p := range waiting {
		i := slices.IndexFunc(parts, func(part *snapshot.Part) bool { return part.Pods[0].PartOf() == p.PartOf() })
		if i < 0 || parts[i].Placed(c.has) >= parts[i].Need() || g.Unmade != "" && parts[i].Placed(c.has) > 0 {
			return []*snapshot.Pod{p}
		}
		if c.whole(parts[i]) {
			return c.must
		}
	}
	return nil
}
