// Package backendtest is the conformance suite of the batch-system contract:
// what every implementation of backends.Backend must do, whether it drives real
// Slurm, this machine or memory. A new implementation joins with one test that
// calls Run.
//
// The suite looks at what a user would see: which programs ran, how often, with
// which signal, and what Observe says of them. It never looks inside.
package backendtest

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Program is what a job's podrun does, as data, so that a real machine and a
// simulated one can both carry it out. It always notes its start and every
// terminate signal in its Trace.
type Program struct {
	// UntilTerm waits for a terminate signal before it ends; otherwise the
	// program ends at once.
	UntilTerm bool
	// IgnoreTerm, with UntilTerm, notes terminate signals and goes on: only a
	// kill ends the program.
	IgnoreTerm bool
	// ExitCode is the exit status when the program ends by itself.
	ExitCode int
	// Signal, when not 0, is the signal the program dies of instead of exiting.
	Signal int
	// Output is printed at the start; it holds only [a-z0-9 .] characters.
	Output string
}

// Trace is what the program of one working directory did so far.
type Trace struct {
	Starts int // times it was started
	Terms  int // terminate signals it received
}

// Harness is one batch system ready for one test.
type Harness struct {
	Backend backends.Backend
	// Owner and OtherOwner are two owner tags that no other test uses at the
	// same time: the suite cancels every job of both at the end of a case.
	Owner, OtherOwner string
	// User runs the jobs. Users is what Observe is asked for; empty means User.
	User  string
	Users []string
	// Partition exists and is up. NoPartition does not exist; empty means "no-such".
	Partition, NoPartition string
	// Slots is the number of tasks of one CPU (and MemoryMiB) that the
	// partition runs at once while nothing else uses it, at least 4.
	Slots int
	// MemoryMiB is asked for each task; 0 leaves it to the batch system.
	MemoryMiB int64

	// Place makes a working directory whose last element is name, owned by
	// User, with a podrun that does what p says. The name is one path element.
	Place func(t *testing.T, name string, p Program) string
	// Trace tells what the program in a directory made by Place did so far.
	Trace func(t *testing.T, dir string) Trace
	// Log reads batch.log of the directory; nil where there are no real files.
	Log func(t *testing.T, dir string) string

	// Wait lets a little time pass between two looks; nil waits for Interval.
	Wait func()
	// Interval is the time between two looks when Wait is nil; 0 is 200 ms.
	Interval time.Duration
	// Rounds is how many looks Eventually takes before it gives up; 0 is 300.
	Rounds int

	// Singleton: two jobs with one key and one user never run at the same time.
	Singleton bool
	// Walltime is the shortest run-time limit worth waiting for in a test; 0
	// leaves the case out.
	Walltime time.Duration
	// License is one that the batch system has two of, in no other test's use; ""
	// where there are none, and then a job with one must be refused.
	License string
	// NoRights: the account may make no reservations, and has to be told so.
	NoRights bool
	// Shards is how many shares of GPUs each host of the partition hands out; 0 where
	// there are none.
	Shards int64
	// Queries counts the list queries that the batch system was asked so far;
	// nil when it cannot be counted.
	Queries func() int
	// Reopen gives a second Backend on the same batch system, as a daemon that
	// was restarted would have; nil means that Backend itself is stateless.
	Reopen func(t *testing.T) backends.Backend
}

// bench is the harness within one case.
type bench struct {
	Harness
	ctx context.Context
}

// patience bounds one call to the backend, so that a call that hangs is a
// failure of its case and not of the whole test binary.
const patience = 2 * time.Minute

func newBench(t *testing.T, h Harness) *bench {
	t.Helper()
	if h.Backend == nil || h.Place == nil || h.Trace == nil || h.Owner == "" || h.OtherOwner == "" || h.User == "" || h.Partition == "" || h.Slots < 4 {
		t.Fatalf("the harness lacks a required field: %+v", h)
	}
	if len(h.Users) == 0 {
		h.Users = []string{h.User}
	}
	if h.NoPartition == "" {
		h.NoPartition = "no-such"
	}
	if h.Interval == 0 {
		h.Interval = 200 * time.Millisecond
	}
	if h.Rounds == 0 {
		h.Rounds = 300
	}
	if h.Wait == nil {
		interval := h.Interval
		h.Wait = func() { <-time.After(interval) }
	}
	b := &bench{Harness: h, ctx: t.Context()}
	// t.Context has ended when cleanups run, but the jobs must still go: a case
	// that leaves jobs behind would starve the next one on a shared cluster.
	t.Cleanup(func() { b.cancelAll(t) })
	return b
}

func (b *bench) cancelAll(t *testing.T) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(b.ctx), patience)
	defer stop()
	for range b.Rounds {
		live := 0
		for _, owner := range []string{b.Owner, b.OtherOwner} {
			got, err := b.Backend.Observe(ctx, owner, b.Users)
			if err != nil {
				t.Errorf("observe for clean-up: %v", err)
				return
			}
			for _, j := range got.Jobs {
				if j.State.Terminal() {
					continue
				}
				live++
				if j.State == backends.StateCompleting {
					continue
				}
				if err := b.Backend.Cancel(ctx, refOf(j)); err != nil {
					t.Errorf("cancel for clean-up: %v", err)
				}
			}
		}
		if live == 0 {
			return
		}
		b.Wait()
	}
	t.Errorf("jobs of %s were still there at the end", b.Owner)
}

// newKey gives a new key: no other case, test or run uses it.
func newKey(t *testing.T) backends.Key {
	t.Helper()
	var raw [8]byte
	if _, err := rand.Read(raw[:]); err != nil {
		t.Fatalf("read random: %v", err)
	}
	text := base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw[:])
	return backends.Key("t" + strings.ToLower(text[:12]))
}

// job is a submitted job with what the case needs to follow it.
type job struct {
	backends.JobRef
	dir string
}

func refOf(j backends.Job) backends.JobRef {
	return backends.JobRef{ID: j.ID, Key: j.Key, User: j.User}
}

// spec is a one-task job whose directory does p.
func (b *bench) spec(t *testing.T, p Program) backends.JobSpec {
	t.Helper()
	key := newKey(t)
	return backends.JobSpec{
		Key: key, Owner: b.Owner, User: b.User, Partition: b.Partition,
		Walltime: 10 * time.Minute, Grace: 5 * time.Second,
		WorkDir:    b.Place(t, string(key), p),
		Components: []backends.Component{b.tasks(1)},
	}
}

func (b *bench) tasks(n int) backends.Component {
	return backends.Component{Tasks: n, CPUs: 1, MemoryMiB: b.MemoryMiB}
}

// call gives the context of one call to the backend.
func (b *bench) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, patience)
}

func (b *bench) submit(t *testing.T, spec backends.JobSpec) job {
	t.Helper()
	ctx, stop := b.call()
	defer stop()
	id, err := b.Backend.Submit(ctx, spec)
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	if id == "" {
		t.Fatal("submit gave an empty id and no error")
	}
	return job{JobRef: backends.JobRef{ID: id, Key: spec.Key, User: spec.User}, dir: spec.WorkDir}
}

func (b *bench) release(t *testing.T, j job) {
	t.Helper()
	ctx, stop := b.call()
	defer stop()
	if err := b.Backend.Release(ctx, j.JobRef); err != nil {
		t.Fatalf("release %s: %v", j.ID, err)
	}
}

func (b *bench) cancel(t *testing.T, j job) {
	t.Helper()
	ctx, stop := b.call()
	defer stop()
	if err := b.Backend.Cancel(ctx, j.JobRef); err != nil {
		t.Fatalf("cancel %s: %v", j.ID, err)
	}
}

// start submits and releases a job that does p.
func (b *bench) start(t *testing.T, p Program) job {
	t.Helper()
	j := b.submit(t, b.spec(t, p))
	b.release(t, j)
	return j
}

func (b *bench) list(t *testing.T, owner string) []backends.Job {
	t.Helper()
	ctx, stop := b.call()
	defer stop()
	got, err := b.Backend.Observe(ctx, owner, b.Users)
	if err != nil {
		t.Fatalf("observe %s: %v", owner, err)
	}
	if !got.Complete {
		t.Fatalf("observe %s: a healthy batch system gave an incomplete list", owner)
	}
	return got.Jobs
}

// look gives the job as observed now; ok is false when it is not listed.
func (b *bench) look(t *testing.T, j job) (backends.Job, bool) {
	t.Helper()
	for _, o := range b.list(t, b.Owner) {
		if o.ID == j.ID {
			return o, true
		}
	}
	return backends.Job{}, false
}

// eventually looks at j until done says so and gives the last look.
func (b *bench) eventually(t *testing.T, j job, want string, done func(backends.Job) bool) backends.Job {
	t.Helper()
	var last backends.Job
	for range b.Rounds {
		var ok bool
		if last, ok = b.look(t, j); ok && done(last) {
			return last
		}
		b.Wait()
	}
	t.Fatalf("job %s never was %s; last seen %+v, trace %+v", j.ID, want, last, b.Trace(t, j.dir))
	return last
}

func (b *bench) until(t *testing.T, j job, state backends.State) backends.Job {
	t.Helper()
	return b.eventually(t, j, string(state), func(o backends.Job) bool {
		if o.State.Terminal() && o.State != state {
			t.Fatalf("job %s ended as %s (%s, exit %d, signal %d), want %s", j.ID, o.State, o.Reason, o.ExitCode, o.Signal, state)
		}
		return o.State == state
	})
}

// started waits until the program in j's directory has noted its start.
func (b *bench) started(t *testing.T, j job) {
	t.Helper()
	b.eventually(t, j, "started", func(backends.Job) bool { return b.Trace(t, j.dir).Starts > 0 })
}

// barrier proves that the batch system went through its queue: a job released
// now has run to its end. What had not started before had its chance.
func (b *bench) barrier(t *testing.T) {
	t.Helper()
	j := b.start(t, Program{})
	b.until(t, j, backends.StateCompleted)
	if n := b.Trace(t, j.dir).Starts; n != 1 {
		t.Fatalf("the barrier job started %d times", n)
	}
}

func (b *bench) neverStarted(t *testing.T, j job) {
	t.Helper()
	if n := b.Trace(t, j.dir).Starts; n != 0 {
		t.Fatalf("job %s started %d times, want 0", j.ID, n)
	}
}
