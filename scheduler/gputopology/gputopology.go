// Package gputopology finds the best set of GPUs inside one node: the one whose
// members are linked best and, among equals, the one that leaves the best sets
// to those that come later. Up to Exact free GPUs the answer is the optimum,
// found by going through all sets with a bound; beyond, it is a good set.
//
// It is pure and keeps no state; a search allocates nothing.
package gputopology

import (
	"math/bits"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
)

// Set is GPUs by position, one bit each.
type Set uint64

// Of makes a set of positions.
func Of(gpus ...int) Set {
	var s Set
	for _, g := range gpus {
		s |= 1 << g
	}
	return s
}

// Len counts members.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Has reports whether position i is a member.
func (s Set) Has(i int) bool { return s>>i&1 == 1 }

// Members lists positions in order.
func (s Set) Members() []int {
	out := make([]int, 0, s.Len())
	for ; s != 0; s &= s - 1 {
		out = append(out, bits.TrailingZeros64(uint64(s)))
	}
	return out
}

// Box is the links of a node's GPUs, made ready.
type Box struct {
	n      int
	score  [gpubox.MaxGPUs][gpubox.MaxGPUs]int32
	linked [gpubox.MaxGPUs]Set // by NVLink, direct or through a switch
	most   int32               // the best score of a pair
}

// The score of a pair: that of its PCIe distance and as much again for each
// NVLink between the two, as NVIDIA's own allocator counts them. GPUs on one
// fabric of switches reach each other with all links of either.
var distance = map[string]int32{
	gpubox.System: 10, "": 10, gpubox.NUMA: 20, gpubox.Bridge: 30,
	gpubox.Switches: 40, gpubox.Switch: 50, gpubox.Board: 60,
}

const perLink = 100

// New makes a box ready; it must be one that gpubox.Box.Check accepts.
func New(b gpubox.Box) *Box {
	out := &Box{n: len(b.GPUs)}
	links := [gpubox.MaxGPUs][gpubox.MaxGPUs]int{}
	pcie := map[[2]int]string{}
	for _, l := range b.Links {
		links[l.A][l.B] += l.NVLinks
		links[l.B][l.A] += l.NVLinks
		if l.PCIe != "" {
			pcie[[2]int{min(l.A, l.B), max(l.A, l.B)}] = l.PCIe
		}
	}
	for _, f := range b.Fabrics {
		for _, i := range f.GPUs {
			for _, j := range f.GPUs {
				if i != j {
					links[i][j] = max(links[i][j], f.NVLinks)
				}
			}
		}
	}
	for i := range out.n {
		for j := range out.n {
			if i == j {
				continue
			}
			out.score[i][j] = distance[pcie[[2]int{min(i, j), max(i, j)}]] + perLink*int32(links[i][j])
			out.most = max(out.most, out.score[i][j])
			if links[i][j] > 0 {
				out.linked[i] |= 1 << j
			}
		}
	}
	return out
}

// Len is the number of GPUs.
func (b *Box) Len() int { return b.n }

// Score is the sum over the pairs of a set.
func (b *Box) Score(s Set) int64 {
	var sum int64
	for i := range b.n {
		if !s.Has(i) {
			continue
		}
		for j := i + 1; j < b.n; j++ {
			if s.Has(j) {
				sum += int64(b.score[i][j])
			}
		}
	}
	return sum
}

// Connected reports whether NVLinks between members alone join all of a set.
func (b *Box) Connected(s Set) bool {
	if s == 0 {
		return true
	}
	reached := s & -s
	for frontier := reached; frontier != 0; {
		i := bits.TrailingZeros64(uint64(frontier))
		frontier &= frontier - 1
		more := b.linked[i] & s &^ reached
		reached |= more
		frontier |= more
	}
	return reached == s
}

// Islands lists the sets that NVLinks join, in order of their first member.
func (b *Box) Islands() []Set {
	var out []Set
	left := Set(1)<<b.n - 1
	if b.n == gpubox.MaxGPUs {
		left = ^Set(0)
	}
	for left != 0 {
		island := left & -left
		for grown := Set(0); grown != island; {
			grown = island
			for s := island; s != 0; s &= s - 1 {
				island |= b.linked[bits.TrailingZeros64(uint64(s))]
			}
		}
		out = append(out, island)
		left &^= island
	}
	return out
}

// Exact is up to how many free GPUs Best goes through all sets.
const Exact = 16

// Best returns the best n of the free GPUs, and whether there is a set at all.
// With joined only sets count that NVLinks join. Better is: the higher score;
// then the higher score of the free GPUs left over; then the lower positions.
func (b *Box) Best(free Set, n int, joined bool) (Set, bool) {
	if b.n < gpubox.MaxGPUs {
		free &= Set(1)<<b.n - 1
	}
	if n <= 0 || n > free.Len() {
		return 0, n == 0
	}
	s := search{box: b, joined: joined, want: n, found: false}
	var degree [gpubox.MaxGPUs]int64
	for f := free; f != 0; f &= f - 1 {
		i := bits.TrailingZeros64(uint64(f))
		s.order[s.free] = i
		s.free++
		for g := free; g != 0; g &= g - 1 {
			degree[i] += int64(b.score[i][bits.TrailingZeros64(uint64(g))])
		}
	}
	s.degree = &degree
	if s.free <= Exact {
		s.all(0, 0, 0, 0, 0)
	} else {
		s.grow(free)
	}
	return s.best, s.found
}

// search is one search under way.
type search struct {
	box        *Box
	joined     bool
	want, free int
	order      [gpubox.MaxGPUs]int
	degree     *[gpubox.MaxGPUs]int64 // score of a GPU with all free ones

	found    bool
	best     Set
	inside   int64
	outgoing int64 // sum of degrees: what the set takes from those left over
}

// all goes through the sets that hold chosen and otherwise GPUs from at on.
func (s *search) all(at int, chosen Set, count int, inside, outgoing int64) {
	if count == s.want {
		s.offer(chosen, inside, outgoing)
		return
	}
	missing := s.want - count
	if s.found {
		pairs := int64(missing*count + missing*(missing-1)/2)
		if inside+pairs*int64(s.box.most) < s.inside {
			return
		}
	}
	for i := at; i <= s.free-missing; i++ {
		g := s.order[i]
		gain := int64(0)
		for c := chosen; c != 0; c &= c - 1 {
			gain += int64(s.box.score[g][bits.TrailingZeros64(uint64(c))])
		}
		s.all(i+1, chosen|1<<g, count+1, inside+gain, outgoing+s.degree[g])
	}
}

// offer keeps a set that is better than the best so far. The score left over is
// that of all free GPUs less outgoing plus inside, so with inside equal the
// smaller outgoing leaves more.
func (s *search) offer(set Set, inside, outgoing int64) {
	if s.found && (inside < s.inside || inside == s.inside && outgoing >= s.outgoing) {
		return
	}
	if s.joined && !s.box.Connected(set) {
		return
	}
	s.found, s.best, s.inside, s.outgoing = true, set, inside, outgoing
}

// grow tries every GPU as a start and adds what gains most each time.
func (s *search) grow(free Set) {
	for i := range s.free {
		set := Set(1) << s.order[i]
		var inside int64
		outgoing := s.degree[s.order[i]]
		for set.Len() < s.want {
			from := free &^ set
			if s.joined {
				var near Set
				for c := set; c != 0; c &= c - 1 {
					near |= s.box.linked[bits.TrailingZeros64(uint64(c))]
				}
				from &= near
			}
			next, most := -1, int64(-1)
			for f := from; f != 0; f &= f - 1 {
				g := bits.TrailingZeros64(uint64(f))
				var gain int64
				for c := set; c != 0; c &= c - 1 {
					gain += int64(s.box.score[g][bits.TrailingZeros64(uint64(c))])
				}
				if gain > most || gain == most && s.degree[g] < s.degree[next] {
					next, most = g, gain
				}
			}
			if next < 0 {
				break
			}
			set |= 1 << next
			inside += most
			outgoing += s.degree[next]
		}
		if set.Len() == s.want {
			s.offer(set, inside, outgoing)
		}
	}
}
