package framework

import (
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/entitlement"
	"github.com/isthmus-hpc/isthmus/scheduler/fairshare"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Historian is a plugin for which what queues hold is remembered.
type Historian interface {
	// HalfLife is how long it takes until what was held counts half.
	HalfLife() time.Duration
}

// HalfLife is how what queues hold is remembered, 0 for not at all: as the pipeline's
// own plugins say, or else as any profile does.
func (p Pipeline) HalfLife() time.Duration {
	if d := halfLife(p.Plugins); d > 0 {
		return d
	}
	var least time.Duration
	for _, profile := range p.Profiles {
		if d := halfLife(profile.Plugins); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

func halfLife(plugins []Plugin) time.Duration {
	for _, pl := range plugins {
		if m, ok := pl.(Muted); ok {
			pl = m.Plugin
		}
		if h, ok := pl.(Historian); ok {
			return h.HalfLife()
		}
	}
	return 0
}

// Recent is what queues and namespaces have held of late, each as the part of the
// cluster that it held on average of the resource of which it held most, in units of
// 1/resource.ShareUnit.
type Recent struct {
	queues     map[*entitlement.Queue]int64
	namespaces map[[2]string]int64
}

// NewRecent adds up what a snapshot remembers, faded until now.
func NewRecent(s *snapshot.Snapshot, l *entitlement.Ledger, now time.Time) *Recent {
	r := &Recent{queues: map[*entitlement.Queue]int64{}, namespaces: map[[2]string]int64{}}
	u := s.Usage
	if u == nil {
		return r
	}
	sums := map[*entitlement.Queue]map[string]int64{}
	after := now.Unix() - u.At
	for _, of := range u.Of {
		path := l.Above(of.Queue)
		for _, q := range of.Held {
			v := fairshare.Average(fairshare.Decay(q.Amount, after, u.HalfLife), u.HalfLife)
			at := [2]string{of.Queue, of.Namespace}
			r.namespaces[at] = max(r.namespaces[at], v)
			for _, queue := range path {
				if sums[queue] == nil {
					sums[queue] = map[string]int64{}
				}
				sums[queue][q.Name] = resource.Add(sums[queue][q.Name], v)
			}
		}
	}
	for queue, sum := range sums {
		for _, v := range sum {
			r.queues[queue] = max(r.queues[queue], v)
		}
	}
	return r
}

// Queue is what a queue and those below it have held.
func (r *Recent) Queue(q *entitlement.Queue) int64 { return r.queues[q] }

// Namespace is what a namespace has held in a queue.
func (r *Recent) Namespace(queue, namespace string) int64 {
	return r.namespaces[[2]string{queue, namespace}]
}

// Namespaces lists the namespaces that have held something in a queue, by name.
func (r *Recent) Namespaces(queue string) []string {
	var out []string
	for at := range r.namespaces {
		if at[0] == queue {
			out = append(out, at[1])
		}
	}
	slices.Sort(out)
	return out
}
