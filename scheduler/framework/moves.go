package framework

import (
	"fmt"
	"slices"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// A move is written down before anybody is sent away. A scheduler that ends in between
// leaves one that has not begun, which means nothing, or one that has begun and must be
// brought to its end: half of a gang elsewhere is of use to nobody.

// moving tells of a nomination of a gang that is moved whether it has begun, and which
// pods are still where they were and were told nothing.
func (s *Session) moving(g *snapshot.Gang, n *snapshot.Nomination) (begun bool, rest []*snapshot.Pod) {
	for _, np := range n.Pods {
		if np.Name == "" {
			return true, nil // of a gang that others go for
		}
		p := s.rollOf(g).byUID[np.UID]
		switch {
		case p != nil && p.Phase == snapshot.PodSucceeded: // by itself, and needs no place any more
		case p == nil || !p.Lives() || s.evicted[np.UID]:
			begun = true
		default:
			rest = append(rest, p)
		}
	}
	return begun, rest
}

// FinishMove sends away what is left at its old place of a gang whose move was begun by
// a scheduler that is no more, to the room that is kept for it. Where that room is
// somebody else's by now, because a member was lost long after the scheduler, the move is
// given up.
func (s *Session) FinishMove(g *snapshot.Gang) {
	n := g.Nominated
	if !n.Keeps(s.Now.UnixNano()) || s.claimed[g.Key] {
		return
	}
	begun, rest := s.moving(g, n)
	if !begun || len(rest) == 0 || slices.ContainsFunc(rest, func(p *snapshot.Pod) bool { return p.Protected != "" || p.Assumed }) {
		return
	}
	c := plan.Claim{Action: s.action, Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Plain: g.Plain, Native: g.Native, Nomination: *n}
	if !s.roomFor(g, rest) {
		s.Unhold(g)
		s.kept[g.Key] = nil
		s.Rehold(g)
		now := s.Now.UnixNano()
		c.Nomination = snapshot.Nomination{Domain: n.Domain, Since: now, Until: now, Moved: g.MovedBy(s.Now)}
		s.Plan.Claims = append(s.Plan.Claims, c)
		return
	}
	for _, p := range rest {
		e := s.Evict(g, p)
		e.Whole, e.Reason = true, s.action
		e.Message = fmt.Sprintf("gang %s/%s is moved as a whole, and room is kept for it on other nodes", g.Namespace, g.Name)
		c.Evictions = append(c.Evictions, e)
	}
	s.Plan.Claims = append(s.Plan.Claims, c)
	s.claimed[g.Key] = true
}

// MoveUnderWay reports whether a gang is between two places: some of it was told to leave
// the old one, and not all of it is at the one that is kept for it. Nodes hold then what
// they will not hold, and the other way round.
func (s *Session) MoveUnderWay() bool {
	return slices.ContainsFunc(s.Snapshot.Gangs, func(g *snapshot.Gang) bool {
		n := g.Nominated
		if !n.Keeps(s.Now.UnixNano()) {
			return false
		}
		if begun, _ := s.moving(g, n); !begun {
			return false
		}
		there := make(map[string][]*snapshot.Pod, len(g.Pods)) // by name
		for _, p := range g.Pods {
			if p.Phase == snapshot.PodSucceeded || p.Lives() {
				there[p.Name] = append(there[p.Name], p)
			}
		}
		return slices.ContainsFunc(n.Pods, func(np snapshot.NominatedPod) bool {
			return np.Name != "" && !slices.ContainsFunc(there[np.Name], func(p *snapshot.Pod) bool {
				return p.Phase == snapshot.PodSucceeded || p.UID != np.UID
			})
		})
	})
}

// roomFor reports whether all that is kept for a gang is there, also for the rest of it,
// once that has gone, what is going away, and the rest of others whose move was begun.
func (s *Session) roomFor(g *snapshot.Gang, rest []*snapshot.Pod) bool {
	rooms := s.kept[g.Key]
	has := make(map[string]bool, len(rooms))
	for _, r := range rooms {
		has[r.pod.Name] = true
	}
	for _, p := range rest {
		if !has[p.Name] {
			return false // its node is no more
		}
	}
	s.leaving()
	txn := s.fork(s.afterLeaving())
	for _, other := range s.Snapshot.Gangs {
		n := other.Nominated
		if !n.Keeps(s.Now.UnixNano()) {
			continue
		}
		begun, stay := s.moving(other, n)
		for _, p := range stay {
			if i, ok := s.Snapshot.Node(p.Node); ok && begun {
				txn.Remove(i, p.Item(other.Key))
			}
		}
	}
	return !slices.ContainsFunc(rooms, func(r keptRoom) bool {
		node := s.Snapshot.Nodes[r.node]
		return !node.Ready || node.Unschedulable || !holds(txn, r)
	})
}

// holds reports whether a node has room for all that it holds, of what kept room is of.
func holds(txn *snapshot.Txn, r keptRoom) bool {
	for d, a := range r.pod.Class.Request {
		if a > 0 && txn.FreeOf(r.node, d) < 0 {
			return false
		}
	}
	return true
}
