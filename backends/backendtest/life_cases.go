package backendtest

import (
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

func heldNeverRuns(t *testing.T, b *bench) {
	held := b.submit(t, b.spec(t, Program{}))
	b.barrier(t)
	o, ok := b.look(t, held)
	if !ok {
		t.Fatalf("held job %s is not listed", held.ID)
	}
	if o.State != backends.StatePending || !o.Held {
		t.Fatalf("held job is %s, Held=%t; want Pending and held", o.State, o.Held)
	}
	b.neverStarted(t, held)
}

func releaseRunsOnce(t *testing.T, b *bench) {
	j := b.submit(t, b.spec(t, Program{}))
	b.release(t, j)
	o := b.until(t, j, backends.StateCompleted)
	if n := b.Trace(t, j.dir).Starts; n != 1 {
		t.Fatalf("the program started %d times", n)
	}
	if o.ExitCode != 0 || o.Signal != 0 || o.Held || o.Restarts != 0 {
		t.Fatalf("completed job reads exit %d, signal %d, Held=%t, Restarts=%d", o.ExitCode, o.Signal, o.Held, o.Restarts)
	}
	if o.Submitted.IsZero() || o.Started.IsZero() || o.Ended.IsZero() {
		t.Fatalf("a time is missing: submitted %v, started %v, ended %v", o.Submitted, o.Started, o.Ended)
	}
	if o.Started.Before(o.Submitted) || o.Ended.Before(o.Started) {
		t.Fatalf("times are out of order: submitted %v, started %v, ended %v", o.Submitted, o.Started, o.Ended)
	}
}

func releaseIsIdempotent(t *testing.T, b *bench) {
	j := b.submit(t, b.spec(t, Program{UntilTerm: true}))
	b.release(t, j)
	b.release(t, j)
	b.started(t, j)
	b.release(t, j)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
	b.release(t, j)
	b.barrier(t)
	if o := b.until(t, j, backends.StateCancelled); o.Held {
		t.Fatal("an ended job reads held")
	}
	if n := b.Trace(t, j.dir).Starts; n != 1 {
		t.Fatalf("the program started %d times", n)
	}
}

func observeEchoes(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true})
	j := b.submit(t, spec)
	check := func(o backends.Job) {
		t.Helper()
		if o.Key != spec.Key || o.Owner != spec.Owner || o.User != spec.User || o.Partition != spec.Partition {
			t.Fatalf("submitted key %q, owner %q, user %q, partition %q; observed %+v", spec.Key, spec.Owner, spec.User, spec.Partition, o)
		}
		if o.Submitted.IsZero() {
			t.Fatal("the submit time is missing")
		}
	}
	o, ok := b.look(t, j)
	if !ok {
		t.Fatal("a submitted job is not listed at once")
	}
	check(o)
	if !o.Started.IsZero() || !o.Ended.IsZero() || len(o.Hosts) != 0 {
		t.Fatalf("a held job has started %v, ended %v, hosts %v", o.Started, o.Ended, o.Hosts)
	}
	b.release(t, j)
	b.started(t, j)
	o = b.until(t, j, backends.StateRunning)
	check(o)
	if len(o.Hosts) != 1 || o.Started.IsZero() || !o.Ended.IsZero() || o.Held {
		t.Fatalf("a running job of one task has hosts %v, started %v, ended %v, Held=%t", o.Hosts, o.Started, o.Ended, o.Held)
	}
	b.cancel(t, j)
	check(b.until(t, j, backends.StateCancelled))
}

func foundAfterReopen(t *testing.T, b *bench) {
	held := b.submit(t, b.spec(t, Program{}))
	running := b.start(t, Program{UntilTerm: true, ExitCode: 0})
	b.started(t, running)
	ended := b.start(t, Program{ExitCode: 3})
	b.until(t, ended, backends.StateFailed)
	if b.Reopen != nil {
		b.Backend = b.Reopen(t)
	}
	if o := b.until(t, held, backends.StatePending); !o.Held {
		t.Fatal("the held job is no longer held")
	}
	b.until(t, running, backends.StateRunning)
	if o := b.until(t, ended, backends.StateFailed); o.ExitCode != 3 {
		t.Fatalf("exit code %d after the restart, want 3", o.ExitCode)
	}
	b.release(t, held)
	b.until(t, held, backends.StateCompleted)
	b.cancel(t, running)
	b.until(t, running, backends.StateCancelled)
	for _, j := range []job{held, running, ended} {
		if n := b.Trace(t, j.dir).Starts; n != 1 {
			t.Fatalf("job %s started %d times", j.ID, n)
		}
	}
}

func cancelHeld(t *testing.T, b *bench) {
	j := b.submit(t, b.spec(t, Program{}))
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
	b.barrier(t)
	b.neverStarted(t, j)
}

func cancelQueued(t *testing.T, b *bench) {
	fill := b.fill(t)
	j := b.start(t, Program{})
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
	b.cancel(t, fill)
	b.barrier(t)
	b.neverStarted(t, j)
}

// fill starts a job that takes the whole partition until it is cancelled.
func (b *bench) fill(t *testing.T) job {
	t.Helper()
	spec := b.spec(t, Program{UntilTerm: true})
	spec.Components = []backends.Component{b.tasks(b.Slots)}
	j := b.submit(t, spec)
	b.release(t, j)
	b.started(t, j)
	return j
}

func cancelRunning(t *testing.T, b *bench) {
	j := b.start(t, Program{UntilTerm: true})
	b.started(t, j)
	b.cancel(t, j)
	o := b.until(t, j, backends.StateCancelled)
	if o.Ended.IsZero() {
		t.Fatal("the end time is missing")
	}
	// Some systems signal the batch shell and its step, hence "at least".
	if n := b.Trace(t, j.dir).Terms; n < 1 {
		t.Fatal("the program was ended without a terminate signal")
	}
	if n := b.Trace(t, j.dir).Starts; n != 1 {
		t.Fatalf("the program started %d times", n)
	}
}

func cancelKills(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true, IgnoreTerm: true})
	spec.Grace = 2 * time.Second
	j := b.submit(t, spec)
	b.release(t, j)
	b.started(t, j)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
	if n := b.Trace(t, j.dir).Terms; n < 1 {
		t.Fatal("the program was killed without a terminate signal")
	}
	// Ended means that its hosts are free: the whole partition fits again.
	b.cancel(t, b.fill(t))
}

func cancelEnded(t *testing.T, b *bench) {
	j := b.start(t, Program{ExitCode: 4})
	b.until(t, j, backends.StateFailed)
	b.cancel(t, j)
	b.barrier(t)
	if o := b.until(t, j, backends.StateFailed); o.ExitCode != 4 {
		t.Fatalf("the exit code became %d, want 4", o.ExitCode)
	}
}

func cancelUnknown(t *testing.T, b *bench) {
	// Submit and cancel first, so that the id has this system's form.
	j := b.submit(t, b.spec(t, Program{}))
	b.cancel(t, j)
	unknown := job{JobRef: backends.JobRef{ID: "4999999", Key: newKey(t), User: b.User}}
	b.cancel(t, unknown)
}

func cancelTwice(t *testing.T, b *bench) {
	j := b.start(t, Program{UntilTerm: true})
	b.started(t, j)
	b.cancel(t, j)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
}

func exitCode(t *testing.T, b *bench) {
	codes := []int{0, 1, 3, 42, 127, 255}
	var jobs []job
	for _, code := range codes {
		jobs = append(jobs, b.start(t, Program{ExitCode: code}))
	}
	for i, j := range jobs {
		want := backends.StateFailed
		if codes[i] == 0 {
			want = backends.StateCompleted
		}
		o := b.until(t, j, want)
		if o.ExitCode != codes[i] || o.Signal != 0 {
			t.Errorf("exit %d is observed as exit %d, signal %d", codes[i], o.ExitCode, o.Signal)
		}
	}
}

func endsBySignal(t *testing.T, b *bench) {
	for _, signal := range []int{9, 6} {
		j := b.start(t, Program{Signal: signal})
		o := b.until(t, j, backends.StateFailed)
		if o.Signal != signal {
			t.Errorf("death by signal %d is observed as exit %d, signal %d", signal, o.ExitCode, o.Signal)
		}
	}
}

func batchLog(t *testing.T, b *bench) {
	j := b.start(t, Program{Output: "hello from the launcher", ExitCode: 1})
	b.until(t, j, backends.StateFailed)
	// A shared file system may show the last lines a little later.
	var text string
	for range b.Rounds {
		if text = b.Log(t, j.dir); strings.Contains(text, "hello from the launcher\n") {
			return
		}
		b.Wait()
	}
	t.Fatalf("batch.log holds %q", text)
}

func walltime(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true, IgnoreTerm: true})
	spec.Walltime = b.Walltime
	spec.Grace = time.Second
	j := b.submit(t, spec)
	b.release(t, j)
	b.started(t, j)
	b.until(t, j, backends.StateTimeout)
	if n := b.Trace(t, j.dir).Terms; n < 1 {
		t.Fatal("the program was killed at the limit without a terminate signal")
	}
}
