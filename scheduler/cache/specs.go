package cache

import (
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// specs finds the key of a spec that was seen before without working it out: the pods of
// a gang have one spec, and each of them is told of several times.
type specs struct {
	known map[string]*known // by what Compact says
	room  []byte
}

// known is a spec, shared by all entries of it, and its key.
type known struct {
	spec snapshot.ClassSpec
	key  string
	// class is what the spec was compiled to last, in an era of the cache's classes, for
	// pods of a queue with these node groups.
	class  *snapshot.Class
	groups *snapshot.NodeGroups
	era    int
}

func newSpecs() specs { return specs{known: map[string]*known{}} }

// fewSpecs is how many specs are remembered at the least.
const fewSpecs = 1024

// intern returns a spec that is equal to the given one, and its key. All are forgotten once
// there are twice as many as pods; nothing depends on their being remembered.
func (s *specs) intern(spec *snapshot.ClassSpec, pods int) *known {
	s.room = spec.Compact(s.room[:0])
	if k := s.known[string(s.room)]; k != nil {
		return k
	}
	if len(s.known) > 2*pods+fewSpecs {
		clear(s.known)
	}
	k := &known{spec: *spec, key: spec.Key()}
	s.known[string(s.room)] = k
	return k
}
