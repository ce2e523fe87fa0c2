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
		i := slices.IndexFunc(g.Pods, func(p *snapshot.Pod) bool { return p.UID == np.UID })
		if i < 0 || !g.Pods[i].Lives() || s.evicted[np.UID] {
			begun = true
			continue
		}
		rest = append(rest, g.Pods[i])
	}
	return begun, rest
}

// FinishMove sends away what is left at its old place of a gang whose move was begun by
// a scheduler that is no more, to the room that is kept for it.
func (s *Session) FinishMove(g *snapshot.Gang) {
	n := g.Nominated
	if n == nil || n.Until <= s.Now.UnixNano() || s.claimed[g.Key] {
		return
	}
	begun, rest := s.moving(g, n)
	if !begun || len(rest) == 0 || slices.ContainsFunc(rest, func(p *snapshot.Pod) bool { return p.Protected != "" || p.Assumed }) {
		return
	}
	c := plan.Claim{Action: s.action, Gang: g.Key, GangUID: g.UID, Namespace: g.Namespace, Name: g.Name, Plain: g.Plain, Nomination: *n}
	for _, p := range rest {
		e := s.Evict(g, p)
		e.Whole, e.Reason = true, s.action
		e.Message = fmt.Sprintf("gang %s/%s is moved as a whole, and room is kept for it on other nodes", g.Namespace, g.Name)
		c.Evictions = append(c.Evictions, e)
	}
	s.Plan.Claims = append(s.Plan.Claims, c)
	s.claimed[g.Key] = true
}
