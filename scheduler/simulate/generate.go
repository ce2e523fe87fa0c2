package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// Sizes of what users do again and again.
const (
	users = 8
	kinds = 5 // of each user
	// spread is how much the runs of one kind differ: two thirds of them are within
	// a factor of e to this.
	spread = 0.4
)

// Generate makes a trace of our own: bursts of submissions, heavy-tailed run
// times, sizes from one processor to the whole cluster, and estimates that are up
// to four times too long. Every user has a few kinds of jobs, each of one size and
// of run times that are alike. load is how much of the processors the jobs ask for.
func Generate(seed uint64, jobs int, processors int64, load float64) []trace.Job {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a trace, not a secret
	type kind struct {
		size int64
		run  float64 // logarithm of seconds
	}
	var does [users][kinds]kind
	for u := range does {
		for k := range does[u] {
			does[u][k] = kind{int64(1) << r.IntN(int(math.Log2(float64(processors)))+1), 5 + 1.6*r.NormFloat64()}
		}
	}
	var out []trace.Job
	var work, at float64
	for i := range jobs {
		user, which := r.IntN(users), r.IntN(kinds)
		k := does[user][which]
		run := int64(min(math.Exp(k.run+spread*r.NormFloat64()), 86400)) + 1
		out = append(out, trace.Job{
			ID: fmt.Sprint(i), Submit: int64(at), Run: run, Estimate: run + int64(float64(run)*3*r.Float64()), Size: k.size,
			User: fmt.Sprint(user), Queue: "default", Kind: fmt.Sprint(which),
		})
		work += float64(k.size * run)
		if r.IntN(5) == 0 { // the end of a burst
			at = max(at, work/(load*float64(processors))) + r.ExpFloat64()
		}
	}
	return out
}
