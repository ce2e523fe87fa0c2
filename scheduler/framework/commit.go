package framework

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Assignment is pods of one class on one node.
type Assignment struct {
	Node int
	Pods []*snapshot.Pod
	// Devices are the GPUs of each pod, where the node describes them.
	Devices [][]string
	// Claims are the volumes and devices that each pod got for its claims; nil for
	// pods without claims.
	Claims []claims.Got
}

// Commit writes assignments, which are in the transaction, to the plan as one
// placement. An empty attempt is a new one of exactly these pods, with ranks
// in the order of members; otherwise ranks gives each pod's rank.
func (s *Session) Commit(g *snapshot.Gang, domain Domain, attempt string, size int64, assigned []Assignment, ranks map[string]int64) {
	p := plan.Placement{Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Domain: domain.Name, Attempt: attempt, Size: size, Run: g.Estimate, RunFrom: g.EstimateFrom}
	if domain.Virtual() {
		p.Paths = g.PathsOn(s.Snapshot.Nodes[domain.Node].Labels)
		p.ReservedBy = s.reservedBy(g, domain.Node)
	}
	p.Binds = s.take(g, attempt, assigned)
	inOrder(g, p.Binds)
	for i := range p.Binds {
		b := &p.Binds[i]
		if b.Rank = int64(i); ranks != nil {
			b.Rank = ranks[b.UID]
		}
	}
	if attempt == "" {
		p.Size = int64(len(p.Binds))
	}
	s.committed[g.Key] = append(s.committed[g.Key], len(s.Plan.Placements))
	s.Plan.Placements = append(s.Plan.Placements, p)
}

// Join adds assignments, which are in the transaction, to the gang's last placement of
// this cycle, which was of a new attempt: they start with it, as one job.
func (s *Session) Join(g *snapshot.Gang, assigned []Assignment) {
	made := s.committed[g.Key]
	p := &s.Plan.Placements[made[len(made)-1]]
	p.Binds = append(p.Binds, s.take(g, "", assigned)...)
	inOrder(g, p.Binds)
	for i := range p.Binds {
		p.Binds[i].Rank = int64(i)
	}
	p.Size = int64(len(p.Binds))
}

// take counts assignments as placed and gives the bindings of their pods, without ranks.
func (s *Session) take(g *snapshot.Gang, attempt string, assigned []Assignment) []plan.Bind {
	s.turn()
	var out []plan.Bind
	var pods []*snapshot.Pod
	for _, a := range assigned {
		for i, pod := range a.Pods {
			b := plan.Bind{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Node: s.Snapshot.Nodes[a.Node].Name}
			if pod.Class.NUMA != nil {
				b.Cells = snapshot.CellsText(s.cells.Give(a.Node, pod.Class))
			}
			if i < len(a.Devices) {
				b.Devices = strings.Join(a.Devices[i], ",")
			}
			if i < len(a.Claims) && !a.Claims[i].Empty() {
				b.Claims = &a.Claims[i]
			}
			out, pods = append(out, b), append(pods, pod)
			s.Ledger.Take(g.Queue, pod.Class.Request, 1)
			s.placed[pod.UID] = true
			s.countOwned(g, pod)
		}
	}
	if s.backfill != nil {
		s.started = append(s.started, starting{g, cmp.Or(attempt, NewJob(g, pods)), assigned})
	}
	return out
}

// inOrder sorts bindings by the order of the gang's members.
func inOrder(g *snapshot.Gang, binds []plan.Bind) {
	if len(binds) < 2 {
		return
	}
	at := make(map[string]int, len(g.Pods))
	for i, p := range g.Pods {
		at[p.UID] = i
	}
	slices.SortFunc(binds, func(a, b plan.Bind) int { return cmp.Compare(at[a.UID], at[b.UID]) })
}

// placements are those of a gang that this cycle makes, in order: a look at all of them for
// each gang would cost the square of their number.
func (s *Session) placements(g *snapshot.Gang) iter.Seq[*plan.Placement] {
	return func(yield func(*plan.Placement) bool) {
		for _, i := range s.committed[g.Key] {
			if !yield(&s.Plan.Placements[i]) {
				return
			}
		}
	}
}
