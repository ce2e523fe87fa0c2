package cache

import (
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// specs finds the key of a spec that was seen before without working it out: the pods of
// a gang have one spec, and each of them is told of several times.
type specs struct {
	known map[string]known // by what Compact says
	room  []byte
}

// known is a spec, shared by all entries of it, and its key.
type known struct {
	spec snapshot.ClassSpec
	key  string
}

func newSpecs() specs { return specs{known: map[string]known{}} }

// fewSpecs is how many specs are remembered at the least.
const fewSpecs = 1024

// intern returns a spec that is equal to the given one, and its key. All are forgotten once
// there are twice as many as pods; nothing depends on their being remembered.
func (s *specs) intern(spec *snapshot.ClassSpec, pods int) (snapshot.ClassSpec, string) {
	s.room = spec.Compact(s.room[:0])
	if k, ok := s.known[string(s.room)]; ok {
		return k.spec, k.key
	}
	if len(s.known) > 2*pods+fewSpecs {
		clear(s.known)
	}
	k := known{*spec, spec.Key()}
	s.known[string(s.room)] = k
	return k.spec, k.key
}
