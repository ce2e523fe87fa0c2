package slurm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// patience is for what Slurm does in rounds of its own, one of which takes a minute,
// and a requeue two.
const patience = 6 * time.Minute

// gateProgram is a program that ends with a code once the test says so: the code is
// written into a file of its directory.
const gateProgram = `while ! [ -s code ]; do sleep 0.1; done; exit "$(cat code)"`

func open(t *testing.T, spec backends.JobSpec, code int) {
	t.Helper()
	file := filepath.Join(spec.WorkDir, "code")
	if err := os.WriteFile(file+".new", fmt.Appendf(nil, "%d\n", code), 0o644); err != nil { //nolint:gosec // the job's user reads it
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// TestAfter is what Slurm makes of a job that comes after another: the provider
// relies on every row.
func TestAfter(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	s := newSite(t)
	scontrol := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "scontrol", args...)
		cmd.Env = append(os.Environ(), c.Env()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("scontrol %v: %v: %s", args, err, out)
		}
	}
	waits := func(ref backends.JobRef) backends.Job {
		t.Helper()
		return s.until(ref, "waiting for the other", patience, func(j backends.Job) bool {
			return j.State == backends.StatePending && j.Reason == "Dependency"
		})
	}
	cancelled := func(ref backends.JobRef) backends.Job {
		t.Helper()
		return s.until(ref, "cancelled", patience, func(j backends.Job) bool { return j.State == backends.StateCancelled })
	}
	pair := func() (first backends.JobRef, program backends.JobSpec, second backends.JobSpec) {
		program = s.spec("slow", gateProgram, oneTask)
		first = s.start(program)
		second = s.spec("slow", "exit 0", oneTask)
		second.After = []backends.JobID{first.ID}
		return first, program, second
	}

	// It waits, released, and runs once the first has ended with 0.
	first, program, spec := pair()
	second := s.start(spec)
	if j := waits(second); j.Held || j.Never {
		t.Errorf("released behind one that runs: %+v", j)
	}
	open(t, program, 0)
	done := s.state(second, backends.StateCompleted)
	if before := s.state(first, backends.StateCompleted); done.Started.Before(before.Ended) {
		t.Errorf("job %s started at %s, before job %s ended at %s", second.ID, done.Started, first.ID, before.Ended)
	}

	// One that fails takes it with it, released or held.
	_, program, spec = pair()
	second = s.start(spec)
	held := s.spec("slow", "exit 0", oneTask)
	held.After = spec.After
	kept := s.submit(held)
	waits(second)
	open(t, program, 3)
	for _, ref := range []backends.JobRef{second, kept} {
		if j := cancelled(ref); !j.Started.IsZero() {
			t.Errorf("started behind one that failed: %+v", j)
		}
	}

	// So does one that is cancelled.
	first, _, spec = pair()
	second = s.start(spec)
	waits(second)
	if err := s.Cancel(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if j := cancelled(second); !j.Started.IsZero() {
		t.Errorf("started behind one that was cancelled: %+v", j)
	}

	// One that is requeued has not ended, and what comes after it waits on; but Slurm
	// 22.05, where it looks between the runs, takes it for failed. In no case it starts
	// meanwhile. One that is held waits for its release.
	first, program, spec = pair()
	second = s.start(spec)
	held = s.spec("slow", "exit 0", oneTask)
	held.After = spec.After
	kept = s.submit(held)
	s.state(first, backends.StateRunning)
	scontrol("requeue", string(first.ID))
	s.until(first, "requeued", time.Minute, func(j backends.Job) bool { return j.Restarts == 1 })
	// Not at once: a job that starts before its earlier run is cleared away on the
	// host may be refused its step there, and fail.
	scontrol("update", "jobid="+string(first.ID), "starttime=now+5")
	open(t, program, 0)
	before := s.until(first, "completed", patience, func(j backends.Job) bool { return j.State == backends.StateCompleted })
	after := s.until(second, "completed or cancelled", patience, func(j backends.Job) bool {
		return j.State == backends.StateCompleted || j.State == backends.StateCancelled
	})
	switch {
	case after.State == backends.StateCancelled && after.Started.IsZero():
		t.Log("Slurm took the requeue for a failure")
	case after.State == backends.StateCancelled || after.Started.Before(before.Ended):
		t.Errorf("behind one that was requeued and ended at %s: %+v", before.Ended, after)
	}
	switch j := s.until(kept, "listed", time.Minute, func(backends.Job) bool { return true }); {
	case j.State == backends.StateCancelled && j.Started.IsZero():
	case !j.Held || j.State != backends.StatePending:
		t.Errorf("held, and what it came after has ended: %+v", j)
	default:
		if err := s.Release(t.Context(), kept); err != nil {
			t.Fatal(err)
		}
		s.state(kept, backends.StateCompleted)
	}

	// What is not known: the caller must not release such a job.
	spec = s.spec("slow", "exit 0", oneTask)
	spec.After = []backends.JobID{"4000000"}
	id, err := s.Submit(t.Context(), spec)
	t.Logf("after a job that nobody knows: id %q, error %v", id, err)
	if err == nil {
		ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
		t.Logf("%+v", s.until(ref, "listed", time.Minute, func(backends.Job) bool { return true }))
		if err := s.Cancel(t.Context(), ref); err != nil {
			t.Error(err)
		}
	}
}
