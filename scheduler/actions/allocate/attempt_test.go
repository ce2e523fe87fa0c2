package allocate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// slowly is choose as it reads: every pod is compared with every member.
func slowly(a attempt, waiting []*snapshot.Pod) (ranks map[string]int64) {
	left := slices.Clone(waiting)
	ranks = map[string]int64{}
	for r := int64(0); r < a.size && len(left) > 0; r++ {
		if slices.ContainsFunc(a.members, func(m *snapshot.Pod) bool { return m.Rank == r }) {
			continue
		}
		at := max(slices.IndexFunc(left, func(p *snapshot.Pod) bool {
			return !slices.ContainsFunc(a.members, func(m *snapshot.Pod) bool {
				return m.Rank < r && snapshot.ComparePods(m, p) > 0 || m.Rank > r && snapshot.ComparePods(m, p) < 0
			})
		}), 0)
		ranks[left[at].UID] = r
		left = slices.Delete(left, at, at+1)
	}
	return ranks
}

// TestRanksAreGivenInTheOrderOfMembers whoever has them already, also where annotations
// say of bound pods what nobody placed.
func TestRanksAreGivenInTheOrderOfMembers(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		pod := func(i int) *snapshot.Pod {
			return &snapshot.Pod{UID: fmt.Sprint(i), Name: fmt.Sprint("p", i), Task: fmt.Sprint("t", r.IntN(3)), Index: r.Int64N(5), Rank: r.Int64N(12)}
		}
		a := attempt{size: 1 + r.Int64N(12)}
		var waiting []*snapshot.Pod
		for i := range r.IntN(8) {
			a.members = append(a.members, pod(i))
		}
		slices.SortFunc(a.members, func(x, y *snapshot.Pod) int { return int(x.Rank - y.Rank) })
		for i := range r.IntN(8) {
			waiting = append(waiting, pod(100+i))
		}
		pods, ranks, lacks, first := a.choose(waiting)
		if want := slowly(a, waiting); fmt.Sprint(ranks) != fmt.Sprint(want) || len(pods) != len(want) {
			t.Fatalf("seed %d: ranks %v, want %v", seed, ranks, want)
		}
		var missing []int64
		for rank := range a.size {
			held := slices.ContainsFunc(a.members, func(m *snapshot.Pod) bool { return m.Rank == rank }) ||
				slices.ContainsFunc(pods, func(p *snapshot.Pod) bool { return ranks[p.UID] == rank })
			if !held {
				missing = append(missing, rank)
			}
		}
		if lacks != int64(len(missing)) || lacks > 0 && first != missing[0] {
			t.Fatalf("seed %d: %d ranks from %d on lack, want %v", seed, lacks, first, missing)
		}
	}
}

// TestSizesAreNotCountedTo: what an annotation says of a bound pod costs nothing.
func TestSizesAreNotCountedTo(t *testing.T) {
	a := attempt{size: maxSize, members: []*snapshot.Pod{{UID: "m", Rank: 1}}}
	if got := testing.AllocsPerRun(5, func() { a.choose(nil) }); got > 20 {
		t.Errorf("%.0f allocations", got)
	}
	if _, _, lacks, first := a.choose(nil); lacks != maxSize-1 || first != 0 {
		t.Errorf("%d ranks from %d on lack", lacks, first)
	}
}
