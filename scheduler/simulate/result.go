package simulate

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strconv"
)

// Result is a whole run.
type Result struct {
	Jobs []Outcome // in order of submission
	// Refused are jobs larger than the cluster.
	Refused int
	// Utilisation is the part of the processors that ran something between the
	// first submission and the last.
	Utilisation float64
	// MeanSlowdown and P95Slowdown are of the bounded slowdown, MeanWait in seconds.
	MeanSlowdown, P95Slowdown, MeanWait float64
	// Fairness is Jain's index of the mean bounded slowdown of each user: 1 when
	// all users are served alike, 1/n when one of n bears everything.
	Fairness float64
}

// Group is what became of jobs that have something in common. Waits are in seconds.
type Group struct {
	Name                      string
	Jobs                      int
	MeanWait, P95Wait         float64
	MeanSlowdown, P95Slowdown float64
	// Work is the sum of processors times seconds.
	Work float64
}

// BySize groups the jobs by processors: 1, 2 to 3, 4 to 7 and so on, the small ones
// first. Sizes that no job has are left out.
func (r *Result) BySize() []Group {
	return r.group(func(o Outcome) string {
		from := int64(1) << (bits.Len64(uint64(o.Size)) - 1) //nolint:gosec // sizes are positive
		if from == 1 {
			return "1"
		}
		return strconv.FormatInt(from, 10) + " to " + strconv.FormatInt(2*from-1, 10)
	}, func(a, b Outcome) int { return bits.Len64(uint64(a.Size)) - bits.Len64(uint64(b.Size)) }) //nolint:gosec // sizes are positive
}

// ByQueue groups the jobs by the queue that the trace says, in order of names.
func (r *Result) ByQueue() []Group {
	return r.group(func(o Outcome) string { return o.Queue }, func(a, b Outcome) int { return cmp.Compare(a.Queue, b.Queue) })
}

// ByUser groups the jobs by user, in order of names.
func (r *Result) ByUser() []Group {
	return r.group(func(o Outcome) string { return o.User }, func(a, b Outcome) int { return cmp.Compare(a.User, b.User) })
}

func (r *Result) group(name func(Outcome) string, order func(a, b Outcome) int) []Group {
	members := map[string][]Outcome{}
	for _, o := range r.Jobs {
		members[name(o)] = append(members[name(o)], o)
	}
	names := slices.SortedFunc(maps.Keys(members), func(a, b string) int { return order(members[a][0], members[b][0]) })
	out := make([]Group, len(names))
	for i, n := range names {
		out[i] = groupOf(n, members[n])
	}
	return out
}

// groupOf sums up at least one job.
func groupOf(name string, jobs []Outcome) Group {
	g := Group{Name: name, Jobs: len(jobs)}
	waits, slow := make([]float64, len(jobs)), make([]float64, len(jobs))
	for i, o := range jobs {
		waits[i], slow[i] = float64(o.Wait()), o.Slowdown()
		g.MeanWait += waits[i] / float64(len(jobs))
		g.MeanSlowdown += slow[i] / float64(len(jobs))
		g.Work += float64(o.Size) * float64(o.Run)
	}
	g.P95Wait, g.P95Slowdown = p95(waits), p95(slow)
	return g
}

func p95(v []float64) float64 {
	slices.Sort(v)
	return v[min(len(v)-1, len(v)*95/100)]
}

// Busy is how many processors run something, from the first submission to the last
// end: parts equal spans, each the mean of its span.
func (r *Result) Busy(parts int) []float64 {
	if len(r.Jobs) == 0 || parts < 1 {
		return nil
	}
	from, to := r.Span()
	step := float64(to-from) / float64(parts)
	out := make([]float64, parts)
	for _, o := range r.Jobs {
		begin, end := float64(o.Start-from), float64(o.Start+o.Run-from)
		for i := int(begin / step); i < parts && float64(i)*step < end; i++ {
			inside := min(end, float64(i+1)*step) - max(begin, float64(i)*step)
			out[i] += max(inside, 0) / step * float64(o.Size)
		}
	}
	return out
}

// Span is from the first submission to the last end, in seconds; it is never empty
// when there are jobs.
func (r *Result) Span() (from, to int64) {
	if len(r.Jobs) == 0 {
		return 0, 0
	}
	from = r.Jobs[0].Submit
	for _, o := range r.Jobs {
		to = max(to, o.Start+o.Run)
	}
	return from, to
}

func (r *Result) sum(set Setting) {
	if len(r.Jobs) == 0 {
		return
	}
	all := groupOf("", r.Jobs)
	r.MeanWait, r.MeanSlowdown, r.P95Slowdown = all.MeanWait, all.MeanSlowdown, all.P95Slowdown
	var sum, squares float64
	users := r.ByUser()
	for _, u := range users {
		sum += u.MeanSlowdown
		squares += u.MeanSlowdown * u.MeanSlowdown
	}
	r.Fairness = sum * sum / (float64(len(users)) * squares) // slowdowns are 1 and more
	first, last := float64(r.Jobs[0].Submit), float64(r.Jobs[len(r.Jobs)-1].Submit)
	var work float64
	for _, o := range r.Jobs {
		from, to := max(float64(o.Start), first), min(float64(o.Start+o.Run), last)
		work += max(to-from, 0) * float64(o.Size)
	}
	if span := last - first; span > 0 {
		r.Utilisation = work / (span * float64(set.Nodes*set.PerNode))
	}
}
