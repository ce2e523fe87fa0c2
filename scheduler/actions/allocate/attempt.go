package allocate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// attempt is a placement of which some members are not bound: its binding was
// interrupted, or a member was deleted before the attempt was taken up.
type attempt struct {
	id      string
	size    int64
	node    string
	members []*snapshot.Pod // by rank
}

// maxSize bounds the size that an annotation can make us count to.
const maxSize = 1 << 20

// openAttempts lists the incomplete attempts of a gang by id. An attempt that
// the provider has taken up is closed: a member that is missing from it then was
// deleted later, and its replacement is placed on its own.
func openAttempts(g *snapshot.Gang) []attempt {
	if !g.Unsettled {
		return nil
	}
	byID := map[string]*attempt{}
	closed := map[string]bool{}
	for _, p := range g.Pods {
		if p.Attempt == "" || p.Node == "" {
			continue
		}
		a := byID[p.Attempt]
		if a == nil {
			a = &attempt{id: p.Attempt, node: p.Node}
			byID[p.Attempt] = a
		}
		a.size = max(a.size, min(p.Size, maxSize))
		a.members = append(a.members, p)
		if p.Submitted || p.Phase != snapshot.PodPending {
			closed[p.Attempt] = true
		}
	}
	var out []attempt
	for id, a := range byID {
		if !closed[id] && int64(len(a.members)) < a.size {
			slices.SortFunc(a.members, func(x, y *snapshot.Pod) int {
				return cmp.Compare(x.Rank, y.Rank)
			})
			out = append(out, *a)
		}
	}
	slices.SortFunc(out, func(a, b attempt) int { return strings.Compare(a.id, b.id) })
	return out
}

// choose gives every missing rank a pod: one that stands, in the order of
// members, between those that hold the ranks before and after, so that a
// component's ranks stay together; else the first that is left. lacks is how many
// ranks nobody takes, of which first is the lowest. The size is what an annotation
// says, so it is counted to no further than there are pods.
func (a attempt) choose(waiting []*snapshot.Pod) (pods []*snapshot.Pod, ranks map[string]int64, lacks, first int64) {
	has := map[int64]bool{}
	for _, m := range a.members {
		if m.Rank < a.size {
			has[m.Rank] = true
		}
	}
	lacks = a.size - int64(len(has))
	left := slices.Clone(waiting)
	ranks = map[string]int64{}
	between := a.between()
	r := int64(0)
	for ; lacks > 0 && len(left) > 0; r++ {
		if has[r] {
			continue
		}
		lowest, highest := between(r)
		at := max(slices.IndexFunc(left, func(p *snapshot.Pod) bool {
			return (lowest == nil || snapshot.ComparePods(lowest, p) <= 0) && (highest == nil || snapshot.ComparePods(highest, p) >= 0)
		}), 0)
		pods = append(pods, left[at])
		ranks[left[at].UID] = r
		left = slices.Delete(left, at, at+1)
		lacks--
	}
	for lacks > 0 && has[r] {
		r++
	}
	return pods, ranks, lacks, r
}

// leaves returns a member that is going away, nil if none is.
func (a attempt) leaves() *snapshot.Pod {
	for _, p := range a.members {
		if p.Terminating {
			return p
		}
	}
	return nil
}

// between returns what gives, for a rank that nobody has, the last in the order of members
// of those that hold lower ranks and the first of those that hold higher ones, nil for none.
func (a attempt) between() func(rank int64) (lowest, highest *snapshot.Pod) {
	n := len(a.members)
	upTo, from := make([]*snapshot.Pod, n), make([]*snapshot.Pod, n)
	for i, m := range a.members {
		upTo[i] = m
		if i > 0 && snapshot.ComparePods(upTo[i-1], m) > 0 {
			upTo[i] = upTo[i-1]
		}
	}
	for i, m := range slices.Backward(a.members) {
		from[i] = m
		if i+1 < n && snapshot.ComparePods(from[i+1], m) < 0 {
			from[i] = from[i+1]
		}
	}
	return func(rank int64) (lowest, highest *snapshot.Pod) {
		i, _ := slices.BinarySearchFunc(a.members, rank, func(m *snapshot.Pod, r int64) int { return cmp.Compare(m.Rank, r) })
		if i > 0 {
			lowest = upTo[i-1]
		}
		if i < n {
			highest = from[i]
		}
		return lowest, highest
	}
}

// complete binds the missing members of an attempt where the others are. It
// returns the pods it used.
func complete(s *framework.Session, g *snapshot.Gang, a attempt, waiting []*snapshot.Pod) []*snapshot.Pod {
	domain, ok := s.DomainOf(a.node)
	leaves := a.leaves()
	if ok && !domain.Virtual() && leaves != nil {
		return nil // what is missing went as this one does: there is nothing to complete
	}
	pods, ranks, lacks, first := a.choose(waiting)
	if ok && !domain.Virtual() && len(pods) == 0 {
		return nil // pods on real nodes run without waiting for each other
	}
	if leaves != nil {
		s.Wait(g, plan.Unschedulable{Code: plan.AttemptIncomplete, Message: fmt.Sprintf(
			"attempt %s on %s has %d of %d members, of which %s is being deleted, and is completed or placed anew when that is gone",
			a.id, a.node, len(a.members), a.size, leaves.Name)})
		return pods
	}
	if len(pods) > 0 {
		domains := []framework.Domain{domain}
		if !ok {
			domains = []framework.Domain{}
		}
		fit, reasons := s.FindDomain(g, a.id, pods, domains)
		if fit == nil {
			u := noFit(g, reasons)
			if !ok {
				u.Message = fmt.Sprintf("attempt %s is on node %s, which does not exist", a.id, a.node)
			}
			s.Wait(g, u)
			return pods
		}
		s.Commit(g, fit.Domain, a.id, a.size, fit.Assigned, ranks)
	}
	if lacks > 0 {
		s.Wait(g, plan.Unschedulable{Code: plan.AttemptIncomplete, Message: fmt.Sprintf(
			"attempt %s on %s has %d of %d members and waits for a pod to take rank %d",
			a.id, a.node, a.size-lacks, a.size, first)})
	}
	return pods
}

// keepForRest has nobody else take, in this cycle, the room of what is missing from a gang
// that rests for a while, after a refusal say: it is half bound, and is completed as soon
// as it has rested.
func keepForRest(s *framework.Session, g *snapshot.Gang) {
	s.Look(g)
	if s.Nominated(g) {
		return // room is kept for it anyway
	}
	var waiting, used []*snapshot.Pod
	for _, p := range g.Pods {
		if p.Waits() {
			waiting = append(waiting, p)
		}
	}
	keep := func(job string, pods []*snapshot.Pod, domains []framework.Domain) {
		if len(pods) == 0 {
			return
		}
		fit, _ := s.FindDomain(g, job, pods, domains)
		if fit == nil {
			return
		}
		s.Rest(g, job, fit)
		used = append(used, pods...)
	}
	for _, a := range openAttempts(g) {
		if domain, ok := s.DomainOf(a.node); ok && a.leaves() == nil {
			pods, _, _, _ := a.choose(waiting)
			keep(a.id, pods, []framework.Domain{domain})
			waiting = framework.Without(waiting, pods)
		}
	}
	if must, why := minimum(g, waiting, g.Have()+int64(len(used)), used); why == nil && refused(s, g, must) == nil {
		keep(framework.NewJob(g, must), must, nil)
	}
}
