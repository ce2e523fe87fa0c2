package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// Generate makes a trace of our own: bursts of submissions, heavy-tailed run
// times, sizes from one processor to the whole cluster, and estimates that are up
// to four times too long. load is how much of the processors the jobs ask for.
func Generate(seed uint64, jobs int, processors int64, load float64) []trace.Job {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a trace, not a secret
	var out []trace.Job
	var work, at float64
	for i := range jobs {
		size := int64(1) << r.IntN(int(math.Log2(float64(processors)))+1)
		run := int64(min(math.Exp(5+1.6*r.NormFloat64()), 86400)) + 1
		out = append(out, trace.Job{
			ID: fmt.Sprint(i), Submit: int64(at), Run: run, Estimate: run + int64(float64(run)*3*r.Float64()), Size: size,
			User: fmt.Sprint(r.IntN(8)), Queue: "default",
		})
		work += float64(size * run)
		if r.IntN(5) == 0 { // the end of a burst
			at = max(at, work/(load*float64(processors))) + r.ExpFloat64()
		}
	}
	return out
}
