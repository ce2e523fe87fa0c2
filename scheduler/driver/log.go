package driver

import (
	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// logDecisions writes what a plan does to gangs, a line each: who is placed, and who loses
// pods to whom and why. Why gangs wait is on them, and not here.
func logDecisions(log logr.Logger, p plan.Plan) {
	for _, pl := range p.Placements {
		log.Info("gang placed", "podGroup", pl.Gang, "node", pl.Domain, "pods", len(pl.Binds), "size", pl.Size, "attempt", pl.Attempt)
	}
	for _, c := range p.Claims {
		for gang, lost := range byGang(c.Evictions) {
			log.Info("pods are evicted", "podGroup", gang, "pods", len(lost), "action", c.Action, "for", c.Gang, "node", c.Nomination.Domain, "reason", lost[0].Message)
		}
	}
	for gang, lost := range byGang(p.Releases) {
		log.Info("pods are sent back", "podGroup", gang, "pods", len(lost), "reason", lost[0].Message)
	}
}

// byGang yields the evictions of each gang, in the order in which the first of each stands.
func byGang(all []plan.Eviction) func(yield func(string, []plan.Eviction) bool) {
	of := make(map[string][]plan.Eviction)
	var order []string
	for _, e := range all {
		if of[e.Gang] == nil {
			order = append(order, e.Gang)
		}
		of[e.Gang] = append(of[e.Gang], e)
	}
	return func(yield func(string, []plan.Eviction) bool) {
		for _, gang := range order {
			if !yield(gang, of[gang]) {
				return
			}
		}
	}
}
