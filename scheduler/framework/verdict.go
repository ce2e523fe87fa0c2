package framework

import (
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// verdict is what the filters say of one class, or of all of one Kin, on every node,
// computed once.
type verdict struct {
	why    []string // by node; "" is admitted
	real   []int    // admitted real nodes; nobody changes them
	counts []plan.NodeCount
	likes  []int64 // by node; nil where nothing is preferred
}

func (s *Session) verdict(c *snapshot.Class) *verdict {
	key := judged{c, s.scope, s.bar}
	if v := s.verdicts[key]; v != nil {
		return v
	}
	if s.scope.unalike {
		v := s.judgeNodes(c)
		s.verdicts[key] = v
		return v
	}
	kin := judgedKin{c.Kin, s.scope, s.bar}
	v := s.ofKin[kin]
	if v == nil {
		if v = s.recallVerdict(c); v == nil {
			v = s.judgeNodes(c)
		}
		s.ofKin[kin] = v
		s.madeOfKin = append(s.madeOfKin, kin)
	}
	s.verdicts[key] = v
	return v
}

// judgeNodes asks filters and scorers about every node.
func (s *Session) judgeNodes(c *snapshot.Class) *verdict {
	v := &verdict{why: make([]string, len(s.Snapshot.Nodes))}
	for i := range s.Snapshot.Nodes {
		var likes int64
		v.why[i], likes = s.judgeNode(c, i)
		v.like(i, likes)
	}
	v.settle(s.real)
	return v
}

// judgeNode asks filters and scorers about one node.
func (s *Session) judgeNode(c *snapshot.Class, i int) (why string, likes int64) {
	n := s.Snapshot.Nodes[i]
	for _, f := range s.scope.filters {
		if why = f.Filter(c, n); why != "" {
			break
		}
	}
	if why == "" && s.bar != nil {
		why = s.bar.why[i]
	}
	for _, f := range s.scope.scorers {
		likes = resource.Add(likes, f.Score(c, n))
	}
	return why, likes
}

// like notes how well a node is liked.
func (v *verdict) like(i int, likes int64) {
	if v.likes == nil && likes != 0 {
		v.likes = make([]int64, len(v.why))
	}
	if v.likes != nil {
		v.likes[i] = likes
	}
}

// liked is what was noted.
func (v *verdict) liked(i int) int64 {
	if v.likes == nil {
		return 0
	}
	return v.likes[i]
}

// settle works out what follows from why: which of the real nodes are admitted, and what
// rules the others out.
func (v *verdict) settle(real []int) {
	counts, out := map[string]int{}, 0
	for _, i := range real {
		if v.why[i] != "" {
			counts[v.why[i]]++
			out++
		}
	}
	v.counts, v.real = slices.Clip(sortedCounts(counts)), real
	if out == 0 {
		return // most classes may go everywhere
	}
	v.real = make([]int, 0, len(real)-out)
	for _, i := range real {
		if v.why[i] == "" {
			v.real = append(v.real, i)
		}
	}
}

// counts counts the real nodes of a domain by what rules a class out there.
func (s *Session) counts(c *snapshot.Class, d Domain) []plan.NodeCount {
	v := s.verdict(c)
	if d.Place == nil {
		return v.counts
	}
	by := map[string]int{}
	for _, i := range d.Place.Nodes {
		if v.why[i] != "" {
			by[v.why[i]]++
		}
	}
	return sortedCounts(by)
}

func sortedCounts(by map[string]int) []plan.NodeCount {
	var out []plan.NodeCount
	for why, n := range by {
		out = append(out, plan.NodeCount{Why: why, Count: n})
	}
	slices.SortFunc(out, func(a, b plan.NodeCount) int { return strings.Compare(a.Why, b.Why) })
	return out
}
