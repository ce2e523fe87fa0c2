package scheduler_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// rackWorld draws up to 8 nodes in racks in blocks, with some GPUs each.
func rackWorld(t *rapid.T) (w *schedtest.World, rack, block map[string]int) {
	w = schedtest.NewWorld()
	rack, block = map[string]int{}, map[string]int{}
	racks := map[int][]string{}
	for i := range rapid.IntRange(1, 8).Draw(t, "nodes") {
		name := fmt.Sprintf("n%d", i)
		w.SetNode(schedtest.Real(name, append(amounts(64, int64(rapid.IntRange(0, 4).Draw(t, "gpus"))), resource.Quantity{Name: "pods", Amount: 110})...))
		r := rapid.IntRange(0, 3).Draw(t, "rack")
		rack[name], block[name] = r, r/2
		racks[r] = append(racks[r], name)
	}
	blocks := map[int][]snapshot.Member{}
	for r := range 4 {
		if racks[r] == nil {
			continue
		}
		h := snapshot.HyperNodeSpec{Name: fmt.Sprintf("rack%d", r), Tier: 1, TierName: "rack"}
		for _, n := range racks[r] {
			h.Members = append(h.Members, snapshot.Member{Exact: n})
		}
		w.HyperNodes = append(w.HyperNodes, h)
		blocks[r/2] = append(blocks[r/2], snapshot.Member{HyperNode: true, Exact: h.Name})
	}
	for b := range 2 {
		if blocks[b] != nil {
			w.HyperNodes = append(w.HyperNodes, snapshot.HyperNodeSpec{Name: fmt.Sprintf("block%d", b), Tier: 2, TierName: "block", Members: blocks[b]})
		}
	}
	return w, rack, block
}

// TestTiersAgainstBruteForce places one gang of equal pods and compares with
// what counting room by rack and block says: it is placed exactly when some
// allowed set of nodes holds it, and never further apart than needed.
func TestTiersAgainstBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range worldsEach {
			w, rack, block := rackWorld(t)
			size, need := rapid.IntRange(1, 6).Draw(t, "size"), int64(rapid.IntRange(1, 3).Draw(t, "gpus of a pod"))
			highest := rapid.IntRange(1, 2).Draw(t, "highest tier")
			hard := rapid.Bool().Draw(t, "hard")
			g := w.AddGang("g", int64(size))
			g.Topology = &snapshot.Topology{Hard: hard, Tier: int64(highest)}
			g.AddPods("w", size, snapshot.ClassSpec{Requests: amounts(1, need)})
			room := map[string]int64{} // by "rack0", "block1" and "all"
			for _, n := range w.Nodes {
				each := n.Allocatable.Get(gpu) / need
				room[fmt.Sprint("rack", rack[n.Name])] += each
				room[fmt.Sprint("block", block[n.Name])] += each
				room["all"] += each
			}
			closest := 4 // the lowest tier with room, 3 for anywhere
			for name, n := range room {
				tier := map[byte]int{'r': 1, 'b': 2, 'a': 3}[name[0]]
				if n >= int64(size) && (!hard || tier <= highest) {
					closest = min(closest, tier)
				}
			}
			p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
			if (closest < 4) != (len(p.Placements) == 1) {
				t.Fatalf("the closest tier with room is %d, room %v, and the plan\n%s", closest, room, p)
			}
			if closest == 4 {
				continue
			}
			var nodes []string
			for _, b := range p.Placements[0].Binds {
				nodes = append(nodes, b.Node)
			}
			if got := spanOf(nodes, rack, block); got > closest {
				t.Fatalf("placed over tier %d, possible was %d:\n%s", got, closest, p)
			}
			w.Apply(p)
			if err := check(w); err != nil {
				t.Fatalf("%v\n%s", err, p)
			}
		}
	})
}

// spanOf is the lowest tier that holds all nodes.
func spanOf(nodes []string, rack, block map[string]int) int {
	span := 1
	for _, n := range nodes {
		switch {
		case block[n] != block[nodes[0]]:
			span = 3
		case rack[n] != rack[nodes[0]]:
			span = max(span, 2)
		}
	}
	return span
}

// TestPartsStayWhole places gangs of parts over several cycles in which
// nodes grow, and checks that no part is ever placed by halves or apart.
func TestPartsStayWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for range worldsEach {
			w, rack, _ := rackWorld(t)
			size := rapid.IntRange(1, 3).Draw(t, "size of a part")
			parts := rapid.IntRange(1, 4).Draw(t, "parts")
			least := rapid.IntRange(0, parts).Draw(t, "least")
			g := w.AddGang("g", int64(least*size))
			g.SubGroups = []snapshot.SubGroup{{Name: "p", Size: int64(size), Min: int64(least), Topology: &snapshot.Topology{Hard: true, Tier: 1}}}
			for i := range parts {
				for _, p := range g.AddPods("w", size+rapid.IntRange(0, 1).Draw(t, "more"), snapshot.ClassSpec{Requests: amounts(1, int64(rapid.IntRange(1, 2).Draw(t, "gpus")))}) {
					p.Policy, p.SubGroup = "p", fmt.Sprint(i)
				}
			}
			for round := range 3 {
				p := scheduler.Cycle(schedtest.Pipeline(), w.Snapshot(), w.Now)
				w.Apply(p)
				if err := check(w); err != nil {
					t.Fatalf("%v\n%s", err, p)
				}
				racks, count := map[string][]int{}, map[string]int{}
				for _, pod := range g.Pods {
					if pod.Node == "" {
						continue
					}
					count[pod.SubGroup]++
					if r := rack[pod.Node]; !slices.Contains(racks[pod.SubGroup], r) {
						racks[pod.SubGroup] = append(racks[pod.SubGroup], r)
					}
				}
				whole := 0
				for part, n := range count {
					if len(racks[part]) > 1 {
						t.Fatalf("round %d: part %s is on racks %v\n%s", round, part, racks[part], p)
					}
					if n < size {
						t.Fatalf("round %d: part %s has %d of %d\n%s", round, part, n, size, p)
					}
					if n >= size {
						whole++
					}
				}
				if whole > 0 && whole < least {
					t.Fatalf("round %d: %d of %d parts are whole\n%s", round, whole, least, p)
				}
				for _, n := range w.Nodes { // room for more next time
					n.Allocatable = resource.MakeList(append(slices.Clone(n.Allocatable), resource.Quantity{Name: gpu, Amount: 1})...)
					w.SetNode(n)
				}
			}
		}
	})
}
