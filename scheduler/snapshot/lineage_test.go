package snapshot

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/resource"
)

// TestLineageChangesNothing changes, adds and takes away nodes at random: a snapshot of a
// lineage knows the same as one without.
func TestLineageChangesNothing(t *testing.T) {
	reused := 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		var l Lineage
		dims := DimsOf(nil)
		made := func(name string) *Node {
			spec := NodeSpec{Name: name, Ready: r.IntN(8) > 0, Virtual: r.IntN(10) == 0, Allocatable: resource.MakeList(resource.Quantity{Name: "cpu", Amount: r.Int64N(9)}, resource.Quantity{Name: "pods", Amount: 9})}
			if spec.Virtual && r.IntN(4) == 0 {
				spec.Serves = []string{"a=b"}
			}
			var on []Resident
			for i := range r.IntN(3) {
				c := ClassSpec{Requests: resource.MakeList(resource.Quantity{Name: "cpu", Amount: r.Int64N(4)})}
				if r.IntN(200) == 0 {
					c.Peers = &Peers{Apart: []PeerTerm{{Key: "host"}}}
				}
				on = append(on, Resident{UID: fmt.Sprint(i), Class: NewClass(c, c.Key(), dims)})
			}
			return NewNode(spec, on, dims)
		}
		var nodes []*Node
		for i := range r.IntN(300) {
			nodes = append(nodes, made(fmt.Sprintf("n%06d", 1000*i)))
		}
		for range 8 {
			for range r.IntN(6) {
				switch i := r.IntN(len(nodes) + 1); {
				case i == len(nodes) || r.IntN(4) == 0:
					n := made(fmt.Sprintf("n%06d", r.IntN(300000)))
					if at, found := slices.BinarySearchFunc(nodes, n, byName); !found {
						nodes = slices.Insert(slices.Clone(nodes), at, n)
					}
				case r.IntN(4) == 0:
					nodes = slices.Delete(slices.Clone(nodes), i, i+1)
				default:
					nodes[i] = made(nodes[i].Name)
				}
			}
			if len(nodes) > 0 && r.IntN(4) == 0 {
				nodes = nodes[:len(nodes)-1]
			}
			if r.IntN(10) == 0 {
				dims = DimsOf(nil)
			}
			before := l.blocks
			got, want := l.Assemble(dims, slices.Clone(nodes), nil, nil), Assemble(dims, slices.Clone(nodes), nil, nil)
			for i := range min(len(before), len(l.blocks)) {
				if len(before[i].total) > 0 && &before[i].total[0] == &l.blocks[i].total[0] {
					reused++
				}
			}
			if a, b := fmt.Sprintf("%v %v %v", got.Total, *got.kinds, []any{got.used, got.shut, got.peers, got.selective}), fmt.Sprintf("%v %v %v", want.Total, *want.kinds, []any{want.used, want.shut, want.peers, want.selective}); a != b {
				t.Fatalf("seed %d: %s with a lineage, %s without", seed, a, b)
			}
		}
	}
	if reused < 100 {
		t.Errorf("%d blocks were taken over, so this test shows little", reused)
	}
}

func byName(a, b *Node) int { return strings.Compare(a.Name, b.Name) }
