package simulate_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
)

// BenchmarkJobs is traces of more and more jobs on 64 processors: by half more than fit,
// so that ever more wait, and a little less than fit.
func BenchmarkJobs(b *testing.B) {
	for _, load := range []float64{0.8, 1.5} {
		for _, n := range []int{1000, 5000, 20000} {
			b.Run(fmt.Sprintf("%d-%v", n, load), func(b *testing.B) {
				jobs := simulate.Generate(1, n, 64, load)
				for b.Loop() {
					if _, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: 16, PerNode: 4}, jobs); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
