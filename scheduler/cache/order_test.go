package cache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestGangsStayInOrder has gangs come, go and come back at random: they are listed by key,
// each once, whatever came between two lists.
func TestGangsStayInOrder(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := New()
		for range 20 {
			for range r.IntN(8) {
				key := fmt.Sprint("g", r.IntN(12))
				if e := c.gangs[key]; e != nil && r.IntN(2) == 0 {
					c.forgetGang(e)
				} else {
					c.gang(key)
				}
			}
			var got []*gangEntry
			got = append(got, c.byKey.list()...)
			var want []*gangEntry
			for _, key := range slices.Sorted(maps.Keys(c.gangs)) {
				want = append(want, c.gangs[key])
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: %d gangs are listed, %d there, or in another order", seed, len(got), len(want))
			}
		}
	}
}
