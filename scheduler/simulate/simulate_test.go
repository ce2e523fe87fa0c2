package simulate_test

import (
	"reflect"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// TestNobodyIsLostOrOverCommitted adds up, job by job, what runs at every start.
func TestNobodyIsLostOrOverCommitted(t *testing.T) {
	for seed := range uint64(4) {
		jobs := simulate.Generate(seed, 60, 32, 0.9)
		for _, inOrder := range []bool{true, false} {
			set := simulate.Setting{Pipeline: config.Default(), Nodes: 8, PerNode: 4, InOrder: inOrder}
			got, err := simulate.Run(set, jobs)
			if err != nil || len(got.Jobs) != len(jobs) {
				t.Fatalf("seed %d: %d of %d jobs, %v", seed, len(got.Jobs), len(jobs), err)
			}
			for _, o := range got.Jobs {
				var busy int64
				for _, other := range got.Jobs {
					if other.Start <= o.Start && o.Start < other.Start+other.Run {
						busy += other.Size
					}
				}
				if busy > 32 || o.Start < o.Submit {
					t.Fatalf("seed %d: at the start of %s, %d of 32 processors are busy", seed, o.ID, busy)
				}
			}
			if again, _ := simulate.Run(set, jobs); !reflect.DeepEqual(got, again) {
				t.Errorf("seed %d: the same trace gives another result", seed)
			}
		}
	}
}

// TestBackfillPutsNobodyOff: with exact estimates the first that waits starts when
// it would have, and a short one passes it.
func TestBackfillPutsNobodyOff(t *testing.T) {
	jobs := []trace.Job{
		{ID: "a", Submit: 0, Run: 100, Estimate: 100, Size: 3},
		{ID: "big", Submit: 1, Run: 50, Estimate: 50, Size: 4},
		{ID: "long", Submit: 2, Run: 200, Estimate: 200, Size: 1},
		{ID: "short", Submit: 3, Run: 90, Estimate: 90, Size: 1},
	}
	want := map[string]int64{"a": 0, "big": 100, "long": 150, "short": 3}
	got, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: 4, PerNode: 1}, jobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range got.Jobs {
		if o.Start != want[o.ID] {
			t.Errorf("%s starts at %d, want %d", o.ID, o.Start, want[o.ID])
		}
	}
}
