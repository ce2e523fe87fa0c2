package gputopology_test

import (
	"fmt"
	"math/bits"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/scheduler/gputopology"
)

func box(n int) gpubox.Box {
	b := gpubox.Box{Version: gpubox.Version, Resource: "nvidia.com/gpu"}
	for i := range n {
		b.GPUs = append(b.GPUs, gpubox.GPU{UUID: fmt.Sprintf("GPU-%d", i), MemoryMiB: 81920, Mode: gpubox.Exclusive})
	}
	return b
}

// mesh is a DGX-1 with V100: a hybrid cube mesh, six NVLinks a GPU.
func mesh() gpubox.Box {
	b := box(8)
	for i, row := range []string{
		"-1122000", "1-210200", "12-20010", "212-0001",
		"2000-112", "02001-21", "001012-2", "0001212-",
	} {
		for j := i + 1; j < 8; j++ {
			pcie := gpubox.System
			if i/4 == j/4 {
				pcie = gpubox.Bridge
				if i/2 == j/2 {
					pcie = gpubox.Switch
				}
			}
			b.Links = append(b.Links, gpubox.Link{A: i, B: j, NVLinks: int(row[j] - '0'), PCIe: pcie})
		}
	}
	return b
}

// bridged is a PCIe box whose GPUs are joined two by two.
func bridged(n int) gpubox.Box {
	b := box(n)
	for i := range n {
		for j := i + 1; j < n; j++ {
			l := gpubox.Link{A: i, B: j, PCIe: gpubox.System}
			if i/(n/2) == j/(n/2) {
				l.PCIe = gpubox.NUMA
			}
			if i/2 == j/2 {
				l.NVLinks, l.PCIe = 4, gpubox.Switch
			}
			b.Links = append(b.Links, l)
		}
	}
	return b
}

// switched is an HGX board: every GPU reaches every other over the switches.
func switched(n, nvlinks int) gpubox.Box {
	b := box(n)
	f := gpubox.Fabric{NVLinks: nvlinks}
	for i := range n {
		f.GPUs = append(f.GPUs, i)
		for j := i + 1; j < n; j++ {
			if i/(n/2) == j/(n/2) {
				b.Links = append(b.Links, gpubox.Link{A: i, B: j, PCIe: gpubox.NUMA})
			}
		}
	}
	b.Fabrics = []gpubox.Fabric{f}
	return b
}

func ready(t *testing.T, b gpubox.Box) *gputopology.Box {
	t.Helper()
	again, err := gpubox.Parse(b.Format())
	if err != nil {
		t.Fatal(err)
	}
	return gputopology.New(again)
}

func TestFixtures(t *testing.T) {
	for name, c := range map[string]struct {
		box    gpubox.Box
		free   gputopology.Set // 0 is all
		n      int
		joined bool
		want   gputopology.Set
		none   bool
	}{
		"V100: a pair has two NVLinks":               {box: mesh(), n: 2, want: gputopology.Of(2, 3)},
		"V100: four are a quad":                      {box: mesh(), n: 4, want: gputopology.Of(0, 1, 2, 3)},
		"V100: eight are all":                        {box: mesh(), n: 8, joined: true, want: gputopology.Of(0, 1, 2, 3, 4, 5, 6, 7)},
		"V100: 0 and 6 are not joined":               {box: mesh(), free: gputopology.Of(0, 6), n: 2, joined: true, none: true},
		"V100: 0 and 6 when it does not matter":      {box: mesh(), free: gputopology.Of(0, 6), n: 2, want: gputopology.Of(0, 6)},
		"V100: the other quad when one is broken":    {box: mesh(), free: ^gputopology.Of(1) & 0xff, n: 4, want: gputopology.Of(4, 5, 6, 7)},
		"bridged: a pair":                            {box: bridged(8), n: 2, joined: true, want: gputopology.Of(0, 1)},
		"bridged: one GPU takes the widowed one":     {box: bridged(8), free: ^gputopology.Of(2) & 0xff, n: 1, want: gputopology.Of(3)},
		"bridged: three are never joined":            {box: bridged(8), n: 3, joined: true, none: true},
		"bridged: four are two pairs of one socket":  {box: bridged(8), free: ^gputopology.Of(0) & 0xff, n: 4, want: gputopology.Of(4, 5, 6, 7)},
		"NVSwitch: two of one socket":                {box: switched(8, 18), n: 2, joined: true, want: gputopology.Of(0, 1)},
		"NVSwitch: any five are joined":              {box: switched(8, 18), free: gputopology.Of(0, 2, 3, 5, 7), n: 5, joined: true, want: gputopology.Of(0, 2, 3, 5, 7)},
		"NVSwitch: three leave the whole socket":     {box: switched(8, 18), free: ^gputopology.Of(0) & 0xff, n: 3, want: gputopology.Of(1, 2, 3)},
		"NVL72: a tray":                              {box: switched(4, 18), n: 4, joined: true, want: gputopology.Of(0, 1, 2, 3)},
		"no links told: any, and none joined":        {box: box(2), n: 2, joined: true, none: true},
		"nothing wanted":                             {box: box(2), n: 0, want: 0},
		"more than there are":                        {box: box(2), n: 3, none: true},
		"32 GPUs: a joined pair, as good as any":     {box: bridged(32), n: 2, joined: true, want: gputopology.Of(0, 1)},
		"32 GPUs: a whole switched box of 32 is one": {box: switched(32, 18), n: 32, joined: true, want: 1<<32 - 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := ready(t, c.box)
			if c.free == 0 {
				c.free = gputopology.Set(1)<<b.Len() - 1
			}
			got, ok := b.Best(c.free, c.n, c.joined)
			if ok == c.none || !c.none && got != c.want {
				t.Fatalf("got %v (%v), score %d; want %v, score %d", got.Members(), ok, b.Score(got), c.want.Members(), b.Score(c.want))
			}
		})
	}
}

func TestIslands(t *testing.T) {
	for name, c := range map[string]struct {
		box  gpubox.Box
		want []gputopology.Set
	}{
		"mesh":     {mesh(), []gputopology.Set{0xff}},
		"bridged":  {bridged(4), []gputopology.Set{gputopology.Of(0, 1), gputopology.Of(2, 3)}},
		"unlinked": {box(2), []gputopology.Set{1, 2}},
		"64":       {switched(64, 1), []gputopology.Set{^gputopology.Set(0)}},
	} {
		if got := ready(t, c.box).Islands(); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestSinglesProtectPairs hands out GPU after GPU of four pairs: a pair is broken
// only when no broken one is left.
func TestSinglesProtectPairs(t *testing.T) {
	b := ready(t, bridged(8))
	free := gputopology.Set(0xff)
	for taken := range 8 {
		s, ok := b.Best(free, 1, false)
		if !ok {
			t.Fatalf("none of %v", free.Members())
		}
		free &^= s
		broken := 0
		for p := range 4 {
			if free.Has(2*p) != free.Has(2*p+1) {
				broken++
			}
		}
		if broken > 1 {
			t.Fatalf("after %d singles %d pairs are broken: %v free", taken+1, broken, free.Members())
		}
	}
}

// drawBox draws a box of random links.
func drawBox(t *rapid.T, most int) gpubox.Box {
	b := box(rapid.IntRange(1, most).Draw(t, "gpus"))
	for i := range b.GPUs {
		for j := range i {
			b.Links = append(b.Links, gpubox.Link{A: i, B: j, NVLinks: rapid.IntRange(0, 2).Draw(t, "nvlinks"),
				PCIe: rapid.SampledFrom([]string{"", gpubox.System, gpubox.NUMA, gpubox.Switch}).Draw(t, "pcie")})
		}
	}
	return b
}

// TestBestIsTheOptimum compares with a search that looks at every subset by
// itself.
func TestBestIsTheOptimum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		wire := drawBox(t, 10)
		b := gputopology.New(wire)
		all := gputopology.Set(1)<<b.Len() - 1
		free := gputopology.Set(rapid.Uint64().Draw(t, "free")) & all
		n, joined := rapid.IntRange(0, b.Len()).Draw(t, "n"), rapid.Bool().Draw(t, "joined")
		got, ok := b.Best(free, n, joined)
		bestInside, bestRest, found := int64(-1), int64(-1), false
		for s := gputopology.Set(0); s <= all; s++ {
			if s&^free != 0 || s.Len() != n || joined && !joinedBy(wire, s) {
				continue
			}
			found = true
			inside, rest := b.Score(s), b.Score(free&^s)
			if inside > bestInside || inside == bestInside && rest > bestRest {
				bestInside, bestRest = inside, rest
			}
		}
		if ok != found {
			t.Fatalf("found %v, a set exists %v", ok, found)
		}
		if ok && (got&^free != 0 || got.Len() != n || b.Score(got) != bestInside || b.Score(free&^got) != bestRest) {
			t.Fatalf("got %v with %d, leaving %d; the optimum has %d and leaves %d", got.Members(), b.Score(got), b.Score(free&^got), bestInside, bestRest)
		}
	})
}

// joinedBy floods from the first member over direct links.
func joinedBy(b gpubox.Box, s gputopology.Set) bool {
	if s == 0 {
		return true
	}
	reached := s & -s
	for {
		before := reached
		for _, l := range b.Links {
			if l.NVLinks > 0 && s.Has(l.A) && s.Has(l.B) && (reached.Has(l.A) || reached.Has(l.B)) {
				reached |= gputopology.Of(l.A, l.B)
			}
		}
		if reached == before {
			return reached == s
		}
	}
}

// TestBeyondExact checks that a good set of a large box is one.
func TestBeyondExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := gputopology.New(drawBox(t, 24))
		free := gputopology.Set(1)<<b.Len() - 1
		n := rapid.IntRange(1, b.Len()).Draw(t, "n")
		got, ok := b.Best(free, n, false)
		if !ok || got.Len() != n || got&^free != 0 {
			t.Fatalf("%v of %v: %v", n, free.Members(), got.Members())
		}
	})
}

// TestNothingIsAllocated keeps the search out of the garbage collector's way.
func TestNothingIsAllocated(t *testing.T) {
	b := ready(t, mesh())
	if n := testing.AllocsPerRun(100, func() { b.Best(0xff, 4, true) }); n > 0 {
		t.Fatalf("%v allocations a search", n)
	}
}

// BenchmarkBest16 is the worst case of the exact search: 8 of 16 that differ little.
func BenchmarkBest16(b *testing.B) {
	wire := box(16)
	for i := range 16 {
		for j := range i {
			wire.Links = append(wire.Links, gpubox.Link{A: i, B: j, NVLinks: bits.OnesCount(uint(i^j)) % 2})
		}
	}
	t := gputopology.New(wire)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := t.Best(0xffff, 8, false); !ok {
			b.Fatal("no set")
		}
	}
}
