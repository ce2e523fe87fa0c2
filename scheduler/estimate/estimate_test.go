package estimate_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
)

func TestQuantileOfPastRuns(t *testing.T) {
	b := estimate.New()
	for i := range int64(10) {
		if got := b.Estimate("k"); (got > 0) != (i >= estimate.Least) {
			t.Errorf("after %d runs the estimate is %s", i, got)
		}
		b.Add("k", estimate.Run{Ended: 1000 + i, Took: (i + 1) * 60})
	}
	if got := b.Estimate("k"); got != 9*time.Minute {
		t.Errorf("of 1m to 10m the estimate is %s, want 9m", got)
	}
	if got := b.Estimate("other"); got != 0 {
		t.Errorf("an unknown key has %s", got)
	}
}

// Whatever the order and however often runs are told, the book is the same, keeps to
// its bounds and is read back as it was written.
func TestOrderAndRepetitionDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type told struct {
			key string
			run estimate.Run
		}
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) told {
			return told{fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "key")), estimate.Run{Ended: rapid.Int64Range(1, 60).Draw(t, "ended"), Took: rapid.Int64Range(0, 9).Draw(t, "took")}}
		}), 1, 120).Draw(t, "runs")
		text := func(order []told) []byte {
			b := estimate.New()
			for _, x := range order {
				b.Add(x.key, x.run)
			}
			out, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
		want := text(all)
		if got := text(append(slices.Clone(all), all...)); !bytes.Equal(got, want) {
			t.Fatalf("told twice: %s, once: %s", got, want)
		}
		if got := text(rapid.Permutation(all).Draw(t, "order")); !bytes.Equal(got, want) {
			t.Fatalf("in another order: %s, want %s", got, want)
		}
		back, err := estimate.Decode(want)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := back.Encode(); !bytes.Equal(got, want) {
			t.Fatalf("read back: %s, want %s", got, want)
		}
	})
}

func TestBounds(t *testing.T) {
	b := estimate.New()
	for k := range int64(estimate.MaxKeys + 50) {
		for r := range int64(estimate.MaxRuns + 5) {
			b.Add(fmt.Sprintf("namespace/%040d", k), estimate.Run{Ended: 1_900_000_000 + k*100 + r, Took: 1_000_000 + r})
		}
	}
	text, err := b.Encode()
	if err != nil || b.Keys() != estimate.MaxKeys || len(text) > 600<<10 {
		t.Errorf("%d keys in %d bytes, %v", b.Keys(), len(text), err)
	}
	if b.Estimate(fmt.Sprintf("namespace/%040d", 0)) != 0 || b.Estimate(fmt.Sprintf("namespace/%040d", estimate.MaxKeys+49)) == 0 {
		t.Error("the oldest key is to be forgotten, and not the newest")
	}
	for _, bad := range []string{"", "{", `{"version":2}`} {
		if _, err := estimate.Decode([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
