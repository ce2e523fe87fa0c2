package whatif

import (
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// parts knows which parts of a gang can be done without.
type parts struct {
	of    map[string]*part // by name
	whole map[*snapshot.SubGroup]int64
}

type part struct {
	policy  *snapshot.SubGroup
	members int64 // that have a place, or are about to
	whole   bool
}

// partsOf counts the parts of a gang, with those members that are coming.
func partsOf(s *framework.Session, g *snapshot.Gang, coming []*snapshot.Pod) parts {
	if len(g.SubGroups) == 0 {
		return parts{}
	}
	out := parts{of: map[string]*part{}, whole: map[*snapshot.SubGroup]int64{}}
	comes := make(map[*snapshot.Pod]bool, len(coming))
	for _, p := range coming {
		comes[p] = true
	}
	for _, p := range g.Parts() {
		of := &part{policy: p.Policy}
		for _, pod := range p.Pods {
			if pod.Counts() && !s.Evicted(pod) || comes[pod] {
				of.members++
			}
		}
		if of.whole = of.members >= p.Need(); of.whole {
			out.whole[p.Policy]++
		}
		out.of[p.Pods[0].PartOf()] = of
	}
	return out
}

// spare reports whether the gang can do without those pods, and counts them as gone then: no
// part is left in pieces, and of each policy as many are whole as it needs.
func (p parts) spare(pods []*snapshot.Pod) bool {
	if p.of == nil {
		return true
	}
	gone := map[*part]int64{}
	for _, pod := range pods {
		if of := p.of[pod.PartOf()]; of != nil {
			gone[of]++
		}
	}
	less := map[*snapshot.SubGroup]int64{}
	for of, n := range gone {
		if n < of.members {
			return false
		}
		if of.whole {
			less[of.policy]++
		}
	}
	for policy, n := range less {
		if p.whole[policy]-n < policy.Min {
			return false
		}
	}
	for of := range gone {
		of.members, of.whole = 0, false
	}
	for policy, n := range less {
		p.whole[policy] -= n
	}
	return true
}
