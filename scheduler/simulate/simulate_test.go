package simulate_test

import (
	"fmt"
	"math"
	"reflect"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/simulate"
	"github.com/isthmus-hpc/isthmus/scheduler/trace"
)

// TestNobodyIsLostOrOverCommitted adds up, job by job, what runs at every start.
func TestNobodyIsLostOrOverCommitted(t *testing.T) {
	for seed := range uint64(4) {
		jobs := simulate.Generate(seed, 40, 16, 0.9)
		for _, inOrder := range []bool{true, false} {
			set := simulate.Setting{Pipeline: config.Default(), Nodes: 4, PerNode: 4, InOrder: inOrder, Learn: seed%2 == 1}
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
				if busy > 16 || o.Start < o.Submit {
					t.Fatalf("seed %d: at the start of %s, %d of 16 processors are busy", seed, o.ID, busy)
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

// TestSums: the groups hold every job once, and the curve all work.
func TestSums(t *testing.T) {
	jobs := simulate.Generate(2, 100, 32, 0.8)
	got, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: 8, PerNode: 4}, jobs)
	if err != nil {
		t.Fatal(err)
	}
	var work float64
	for _, j := range jobs {
		work += float64(j.Size * j.Run)
	}
	for name, groups := range map[string][]simulate.Group{"size": got.BySize(), "queue": got.ByQueue(), "user": got.ByUser()} {
		n, sum := 0, 0.0
		for _, g := range groups {
			n += g.Jobs
			sum += g.Work
		}
		if n != len(jobs) || sum != work {
			t.Errorf("by %s: %d jobs with %g, want %d with %g", name, n, sum, len(jobs), work)
		}
	}
	from, to := got.Span()
	var area float64
	for _, busy := range got.Busy(77) {
		if busy > 32.001 {
			t.Errorf("%g of 32 processors are busy", busy)
		}
		area += busy * float64(to-from) / 77
	}
	if math.Abs(area-work) > work/1e6 {
		t.Errorf("the curve holds %g processor seconds, want %g", area, work)
	}
	if got.Fairness <= 1.0/8 || got.Fairness > 1 {
		t.Errorf("fairness of 8 users is %g", got.Fairness)
	}
}

// TestQueuesShare: with queues of their own, two tenants get alike, however much one
// asks for first.
func TestQueuesShare(t *testing.T) {
	var jobs []trace.Job
	for i := range 40 {
		jobs = append(jobs, trace.Job{ID: fmt.Sprint("big", i), Submit: 0, Run: 100, Estimate: 100, Size: 1, User: "a", Queue: "a"})
	}
	for i := range 8 {
		jobs = append(jobs, trace.Job{ID: fmt.Sprint("small", i), Submit: 1, Run: 100, Estimate: 100, Size: 1, User: "b", Queue: "b"})
	}
	wait := map[bool]float64{}
	for _, queues := range []bool{false, true} {
		got, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: 4, PerNode: 1, Queues: queues}, jobs)
		if err != nil || len(got.Jobs) != len(jobs) {
			t.Fatalf("%d jobs, %v", len(got.Jobs), err)
		}
		wait[queues] = got.ByQueue()[1].MeanWait
	}
	if wait[true]*2 > wait[false] {
		t.Errorf("the later tenant waits %g s with a queue of its own, %g s without", wait[true], wait[false])
	}
}

// TestLearns: where nobody says how long jobs run, nobody passes one that waits until
// enough of a kind have ended; then short ones do.
func TestLearns(t *testing.T) {
	short := func(id string, submit int64) trace.Job {
		return trace.Job{ID: id, Submit: submit, Run: 10, Estimate: 10, Size: 1, User: "u", Kind: "short"}
	}
	long := func(id string, submit, size int64) trace.Job {
		return trace.Job{ID: id, Submit: submit, Run: 100, Estimate: 100, Size: size, User: "u", Kind: "long"}
	}
	jobs := []trace.Job{
		short("first", 0), short("second", 1), long("a", 1, 3), long("b", 2, 4), short("waits", 12), // b waits for all of a
		short("third", 300), long("c", 400, 3), long("d", 401, 4), short("passes", 402),
		{ID: "unknown", Submit: 403, Run: 10, Estimate: 10, Size: 1, User: "other", Kind: "short"},
	}
	got, err := simulate.Run(simulate.Setting{Pipeline: config.Default(), Nodes: 4, PerNode: 1, Learn: true}, jobs)
	if err != nil || len(got.Jobs) != len(jobs) {
		t.Fatalf("%d jobs, %v", len(got.Jobs), err)
	}
	start := map[string]int64{}
	for _, o := range got.Jobs {
		start[o.ID] = o.Start
	}
	if start["passes"] != 402 {
		t.Errorf("one of a kind that is known to be short starts at %d, not at once", start["passes"])
	}
	if start["waits"] <= start["b"] || start["unknown"] <= start["d"] {
		t.Errorf("one of an unknown kind passes the one that waits: %v", start)
	}
}
