package fill_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/scheduler/fill"
)

func TestFull(t *testing.T) {
	for _, tt := range []struct{ free, total, ask, want int64 }{
		{8, 8, 0, 0}, {8, 8, 4, 50}, {4, 8, 4, 100}, {2, 8, 4, 100}, {-3, 8, 1, 100}, {0, 0, 1, 100}, {0, 0, 0, 0},
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, 100},
	} {
		if got := fill.Full(tt.free, tt.total, tt.ask); got != tt.want {
			t.Errorf("Full(%d, %d, %d) = %d, want %d", tt.free, tt.total, tt.ask, got, tt.want)
		}
	}
}

func TestBalance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		full := rapid.SliceOfN(rapid.Int64Range(0, 100), 1, 6).Draw(t, "full")
		var mean, variance float64
		for _, f := range full {
			mean += float64(f) / float64(len(full))
		}
		for _, f := range full {
			variance += (float64(f) - mean) * (float64(f) - mean) / float64(len(full))
		}
		if got, want := fill.Balance(full...), 100-math.Sqrt(variance); math.Abs(float64(got)-want) > 1.01 {
			t.Fatalf("Balance(%v) = %d, want about %g", full, got, want)
		}
	})
	if fill.Balance() != 0 {
		t.Error("no resource is balanced")
	}
}

func TestWeighted(t *testing.T) {
	var w fill.Weighted
	if w.Mean() != 0 {
		t.Error("nothing has a mean")
	}
	w.Add(100, 3)
	w.Add(20, 1)
	w.Add(50, 0)
	if w.Mean() != 80 {
		t.Errorf("got %d, want 80", w.Mean())
	}
}
