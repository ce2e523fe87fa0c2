package main

import (
	"context"
	"time"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/grants"
)

// tellRights returns what is told of rights: an operator hears once what is missing and
// what goes without it.
func (s *scheduler) tellRights(log logr.Logger, m *driver.Metrics) func(grants.Right, bool) {
	return func(r grants.Right, denied bool) {
		m.Right(r.Verb, r.Resource, denied)
		if r == grants.Evict {
			why := ""
			if denied {
				why = "a disruption budget covers it, and this scheduler has no right to create pods/eviction, which alone budgets count"
			}
			s.cache.Guard(why)
		}
		if denied {
			log.Info("WARNING: a right is missing; grant it in the scheduler's role, which takes effect without a restart", "verbs", r.Verb, "resource", r.Resource, "lost", r.Lost())
		} else {
			log.Info("a right that was missing is granted, or has not been wanted for a while", "verbs", r.Verb, "resource", r.Resource)
		}
	}
}

// refreshRights asks for what is denied again from time to time, until ctx ends.
func (s *scheduler) refreshRights(ctx context.Context, every time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		s.grants.Refresh(ctx)
	}
}
