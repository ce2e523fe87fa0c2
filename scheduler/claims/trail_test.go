package claims

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// TestTrailIsAMap changes copies of copies in random turns beside maps that are copied
// whole.
func TestTrailIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trails, plain := []*trail[int, int]{{}}, []map[int]int{{}}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			at := rapid.IntRange(0, len(trails)-1).Draw(t, "of")
			if rapid.IntRange(0, 2).Draw(t, "fork") == 0 {
				f := trails[at].fork()
				trails, plain = append(trails, &f), append(plain, maps.Clone(plain[at]))
				continue
			}
			k, v := rapid.IntRange(0, 20).Draw(t, "key"), rapid.Int().Draw(t, "value")
			trails[at].set(k, v)
			plain[at][k] = v
		}
		for i := range trails {
			for k := range 21 {
				got, has := trails[i].get(k)
				if want, there := plain[i][k]; got != want || has != there {
					t.Fatalf("copy %d has %d, %t under %d, want %d, %t", i, got, has, k, want, there)
				}
			}
		}
	})
}

// TestTrailCopiesLittle makes a chain of copies, each with one entry more, and counts
// the layers.
func TestTrailCopiesLittle(t *testing.T) {
	var at trail[int, int]
	for i := range 10000 {
		next := at.fork()
		next.set(i, i)
		at = next
		if len(at.layers) > 20 {
			t.Fatalf("%d layers after %d copies", len(at.layers), i+1)
		}
	}
	for i := range 10000 {
		if v, ok := at.get(i); !ok || v != i {
			t.Fatalf("%d is %d, %t", i, v, ok)
		}
	}
}
