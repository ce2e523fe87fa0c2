package main

import (
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// tooBig says what of a gang that waits is more than all there is, in use or not: no wait
// helps it, other nodes or smaller requests do. A resource that no node offers at all is
// named where the gang's reason is.
func tooBig(s *snapshot.Snapshot, g *snapshot.Gang) []string {
	var nodes, real resource.Vector // the most of one node, and all real ones together
	nodes, real = make(resource.Vector, s.Dims.Len()), make(resource.Vector, s.Dims.Len())
	domain := real.Clone() // the most of one domain
	for _, n := range s.Nodes {
		for d, total := range n.Total {
			nodes[d] = max(nodes[d], total)
			if n.Virtual {
				domain[d] = max(domain[d], total)
			} else {
				real[d] = resource.Add(real[d], total)
			}
		}
	}
	need, members := make(resource.Vector, s.Dims.Len()), int64(0)
	var out []string
	said := map[string]bool{}
	say := func(words string) {
		if !said[words] {
			said[words] = true
			out = append(out, words)
		}
	}
	for _, p := range g.Pods {
		if p.Terminal() {
			continue
		}
		members++
		need.AddScaled(p.Class.Request, 1)
		for d, asks := range p.Class.Request {
			if name := s.Dims.Name(d); p.Waits() && nodes[d] > 0 && asks > nodes[d] {
				say(fmt.Sprintf("a member needs %s %s, and no node has more than %s, in use or not", plan.Amount(name, asks), name, plan.Amount(name, nodes[d])))
			}
		}
	}
	if members > g.Minimum() || len(out) > 0 {
		return out // not all have to be there at once, or there is no more to say
	}
	for d, asks := range need {
		if most := max(domain[d], real[d]); most > 0 && asks > most {
			name := s.Dims.Name(d)
			say(fmt.Sprintf("its %d members need %s %s together, and there is no place with more than %s, in use or not", members, plan.Amount(name, asks), name, plan.Amount(name, most)))
		}
	}
	return out
}
