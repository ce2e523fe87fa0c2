package scheduler_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// TestContentionWhileSomeGo plays histories of contention in which gangs are sent away by
// others than the scheduler too, so that there is room that becomes free by itself, beside
// planned starts.
func TestContentionWhileSomeGo(t *testing.T) {
	for seed := range seeds(t) {
		r := rand.New(rand.NewPCG(uint64(seed), 11))
		var script []string
		gangs := 0
		for _, line := range history(r) {
			if strings.HasPrefix(line, "pods ") {
				gangs++
			}
			if line == "cycle" && gangs > 0 && r.IntN(2) == 0 {
				script = append(script, fmt.Sprintf("terminate g%d-", r.IntN(gangs)))
			}
			script = append(script, strings.TrimSuffix(line, " protected=test"))
		}
		if err := play(schedtest.Pipeline(), script, rand.New(rand.NewPCG(uint64(seed), 2))); err != nil {
			script, err = shrinkBy(script, err, func(s []string) error { return play(schedtest.Pipeline(), s, rand.New(rand.NewPCG(0, 0))) })
			t.Fatalf("seed %d: %v\n%s", seed, err, strings.Join(script, "\n"))
		}
	}
}
