package framework

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// verdict is what the filters say of one class on every node, computed once.
type verdict struct {
	why    []string // by node; "" is admitted
	real   []int    // admitted real nodes
	counts []plan.NodeCount
}

func (s *Session) verdict(c *snapshot.Class) *verdict {
	if v := s.verdicts[c]; v != nil {
		return v
	}
	v := &verdict{why: make([]string, len(s.Snapshot.Nodes))}
	counts := map[string]int{}
	for i, n := range s.Snapshot.Nodes {
		for _, f := range s.filters {
			if v.why[i] = f.Filter(c, n); v.why[i] != "" {
				break
			}
		}
		switch {
		case n.Virtual:
		case v.why[i] == "":
			v.real = append(v.real, i)
		default:
			counts[v.why[i]]++
		}
	}
	for why, n := range counts {
		v.counts = append(v.counts, plan.NodeCount{Why: why, Count: n})
	}
	slices.SortFunc(v.counts, func(a, b plan.NodeCount) int { return strings.Compare(a.Why, b.Why) })
	s.verdicts[c] = v
	return v
}
