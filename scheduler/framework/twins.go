package framework

import (
	"cmp"
	"slices"
	"sort"
	"unique"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// In a deep queue most gangs that wait are like others: of users who submit the same again
// and again. What was found of the first of them is so for all that follow, for as long as
// nothing of what it was found by has changed.

// Twin is one for gangs for which the search for a place of their minimum, made one after
// the other with nothing done in between, ends alike and in the same words, if it ends in
// vain: now, when others have ended, or when others are sent away.
type Twin struct {
	shape     unique.Handle[snapshot.Shape]
	queue     string
	namespace string // where some virtual node serves some namespaces only
	// reaches is how many planned starts it would still run at, the soonest ones, and -1 where
	// nobody knows for how long it runs.
	reaches int
}

// TwinOf returns what makes a gang, of which this cycle has placed nothing, a twin of others,
// nil where it can have none: where a plugin may look at the gang itself, and beside
// reservations, which are for some.
func (s *Session) TwinOf(g *snapshot.Gang) *Twin {
	shape, ok := g.Shape()
	if !ok || s.single || s.reserved != nil {
		return nil
	}
	if p := s.pointsOf(g.Queue); len(p.enterers)+len(p.mateScorers) > 0 || s.Nominated(g) {
		return nil
	}
	of := Twin{shape: shape, queue: g.Queue, reaches: s.reached(g)}
	if s.selective {
		of.namespace = g.Namespace
	}
	t := s.twins[of]
	if t == nil {
		if s.twins == nil {
			s.twins = map[Twin]*Twin{}
		}
		t = &of
		s.twins[of] = t
	}
	return t
}

// Apart has this cycle look at each gang by itself, whatever is known of others like it. Its
// plan is the same, and costs more.
func (s *Session) Apart() { s.single = true }

// reached counts the planned starts at which a gang would still run, -1 if nobody knows for
// how long that is.
func (s *Session) reached(g *snapshot.Gang) int {
	switch {
	case len(s.heads) == 0:
		return 0
	case g.Estimate <= 0:
		return -1
	case s.headsAt == nil:
		for i := range s.heads {
			s.headsAt = append(s.headsAt, s.heads[i].at)
		}
		slices.SortFunc(s.headsAt, cmp.Compare[int64])
	}
	ends := resource.Add(s.Now.UnixNano(), g.Estimate)
	return sort.Search(len(s.headsAt), func(i int) bool { return s.headsAt[i] >= ends })
}

// Turned counts what was done in this cycle that may decide where there is room, or what is
// said of that: what was placed, kept, planned, sent away or given back.
func (s *Session) Turned() int { return s.turned }

// turn notes that something of that kind was done.
func (s *Session) turn() { s.turned, s.headsAt = s.turned+1, nil }
