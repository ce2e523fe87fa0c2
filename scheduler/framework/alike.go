package framework

import (
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Alike is equal for gangs whose pods, if they are of the same classes, find room in the
// same places: whatever else of a gang decides that is in it.
func (s *Session) Alike(b Blocked) string {
	var out strings.Builder
	g := b.Gang
	fmt.Fprintf(&out, " %p %p", s.pointsOf(g.Queue), s.barOf(g))
	out.WriteString(s.stagingKey(g))
	if s.selective {
		fmt.Fprintf(&out, " %s", g.Namespace)
	}
	if s.reserved != nil {
		for i, p := range s.reserved.pieces {
			if p.Owns(g) {
				fmt.Fprintf(&out, " %d", i)
			}
		}
	}
	if g.Topology != nil || len(g.SubGroups) > 0 {
		out.WriteString(" " + topologyKey(s.newAsk(g, b.Job, b.Must)))
	}
	return out.String()
}

// Reached is equal for gangs that would still run at the same planned starts of others,
// if they were placed now and ran for that much longer than they are thought to.
func (s *Session) Reached(g *snapshot.Gang, longer time.Duration) string {
	s.planReserved()
	var out strings.Builder
	for _, h := range s.heads {
		if own := h.reservation == nil && h.gang == g; !own && s.reaches(g, h, longer) {
			fmt.Fprintf(&out, " %p", h.then)
		}
	}
	return out.String()
}
