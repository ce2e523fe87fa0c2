package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

func observeByOwner(t *testing.T, b *bench) {
	mine := b.submit(t, b.spec(t, Program{}))
	spec := b.spec(t, Program{})
	spec.Owner = b.OtherOwner
	other := b.submit(t, spec)
	for _, c := range []struct {
		owner string
		want  job
	}{{b.Owner, mine}, {b.OtherOwner, other}} {
		got := b.list(t, c.owner)
		if len(got) != 1 || got[0].ID != c.want.ID || got[0].Owner != c.owner {
			t.Errorf("owner %s lists %+v, want only %s", c.owner, got, c.want.ID)
		}
	}
	if got := b.list(t, "nobody-"+string(newKey(t))); len(got) != 0 {
		t.Errorf("an owner without jobs lists %+v", got)
	}
	// A prefix of an owner's tag is another owner.
	if got := b.list(t, b.Owner[:len(b.Owner)-1]); len(got) != 0 {
		t.Errorf("a prefix of the owner lists %+v", got)
	}
}

func observeOnce(t *testing.T, b *bench) {
	var want []backends.JobID
	for range 12 {
		want = append(want, b.submit(t, b.spec(t, Program{})).ID)
	}
	before := 0
	if b.Queries != nil {
		before = b.Queries()
	}
	var got []backends.JobID
	for _, o := range b.list(t, b.Owner) {
		got = append(got, o.ID)
	}
	if b.Queries != nil {
		if n := b.Queries() - before; n != 1 {
			t.Errorf("one observe of 12 jobs cost %d queries, want 1", n)
		}
	}
	if !slices.IsSorted(got) {
		t.Errorf("jobs are not ordered by id: %v", got)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("observed %v, submitted %v", got, want)
	}
}

func gangWaitsWhole(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true})
	spec.Components = []backends.Component{b.tasks(b.Slots - 1)}
	most := b.submit(t, spec)
	b.release(t, most)
	b.started(t, most)

	spec = b.spec(t, Program{UntilTerm: true})
	spec.Components = []backends.Component{b.tasks(2)}
	gang := b.submit(t, spec)
	b.release(t, gang)
	o := b.eventually(t, gang, "pending with a reason", func(o backends.Job) bool {
		return o.State == backends.StatePending && !o.Held && o.Reason != ""
	})
	if o.Never {
		t.Fatalf("a gang that only waits for others reads Never (%s)", o.Reason)
	}
	b.neverStarted(t, gang)
	b.cancel(t, most)
	b.started(t, gang)
	b.until(t, gang, backends.StateRunning)
	if n := b.Trace(t, gang.dir).Starts; n != 1 {
		t.Fatalf("the batch script of a gang of 2 started %d times, want 1", n)
	}
}

// tooLarge accepts both ways that batch systems have: refuse at once, or keep
// the job pending with a reason. Starting any part of it is wrong in both.
func tooLarge(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true})
	spec.Components = []backends.Component{b.tasks(b.Slots + 1)}
	ctx, stop := b.call()
	defer stop()
	id, err := b.Backend.Submit(ctx, spec)
	if err != nil {
		if kind := backends.KindOf(err); kind != backends.KindInvalid {
			t.Fatalf("submit of a gang that never fits: kind %s (%v), want Invalid or a pending job", kind, err)
		}
		return
	}
	j := job{JobRef: backends.JobRef{ID: id, Key: spec.Key, User: spec.User}, dir: spec.WorkDir}
	b.release(t, j)
	b.eventually(t, j, "pending with a reason", func(o backends.Job) bool {
		return o.State == backends.StatePending && !o.Held && o.Reason != ""
	})
	b.neverStarted(t, j)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
}

func heterogeneous(t *testing.T, b *bench) {
	spec := b.spec(t, Program{})
	two := b.tasks(1)
	two.CPUs = 2
	spec.Components = []backends.Component{b.tasks(1), two}
	j := b.submit(t, spec)
	if o, ok := b.look(t, j); !ok || !o.Held || o.State != backends.StatePending {
		t.Fatalf("the held job of two components reads %+v (listed: %t)", o, ok)
	}
	if got := b.list(t, b.Owner); len(got) != 1 {
		t.Fatalf("a job of two components is listed as %d jobs: %+v", len(got), got)
	}
	b.release(t, j)
	o := b.until(t, j, backends.StateCompleted)
	if o.Key != spec.Key {
		t.Errorf("key %q, want %q", o.Key, spec.Key)
	}
	if n := b.Trace(t, j.dir).Starts; n != 1 {
		t.Fatalf("the batch script started %d times, want 1", n)
	}
}

func heterogeneousWaits(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true})
	spec.Components = []backends.Component{b.tasks(b.Slots - 1)}
	most := b.submit(t, spec)
	b.release(t, most)
	b.started(t, most)

	spec = b.spec(t, Program{UntilTerm: true})
	two := b.tasks(1)
	two.CPUs = 2
	spec.Components = []backends.Component{b.tasks(1), two}
	j := b.submit(t, spec)
	b.release(t, j)
	b.eventually(t, j, "pending with a reason", func(o backends.Job) bool {
		return o.State == backends.StatePending && !o.Held && o.Reason != ""
	})
	b.neverStarted(t, j)
	b.cancel(t, most)
	b.started(t, j)
	b.cancel(t, j)
	b.until(t, j, backends.StateCancelled)
}

func sameKey(t *testing.T, b *bench) {
	spec := b.spec(t, Program{})
	first, second := b.submit(t, spec), b.submit(t, spec)
	if first.ID == second.ID {
		t.Fatalf("two submits gave one id %s", first.ID)
	}
	for _, j := range []job{first, second} {
		if o, ok := b.look(t, j); !ok || o.Key != spec.Key {
			t.Fatalf("job %s reads %+v (listed: %t)", j.ID, o, ok)
		}
	}
	// Only the recorded one is released; the other is swept up.
	b.release(t, second)
	b.cancel(t, first)
	b.until(t, first, backends.StateCancelled)
	b.until(t, second, backends.StateCompleted)
	if n := b.Trace(t, second.dir).Starts; n != 1 {
		t.Fatalf("the program started %d times, want 1", n)
	}
}

func singleton(t *testing.T, b *bench) {
	spec := b.spec(t, Program{UntilTerm: true})
	again := spec
	again.WorkDir = b.Place(t, string(spec.Key), Program{UntilTerm: true})
	jobs := []job{b.submit(t, spec), b.submit(t, again)}
	b.release(t, jobs[0])
	b.started(t, jobs[0])
	b.release(t, jobs[1])
	b.barrier(t)
	b.neverStarted(t, jobs[1])
	if o := b.until(t, jobs[1], backends.StatePending); o.Reason == "" {
		t.Error("the job that waits for its namesake gives no reason")
	}
	b.cancel(t, jobs[0])
	b.started(t, jobs[1])
	if o, ok := b.look(t, jobs[0]); !ok || !o.State.Terminal() {
		t.Fatalf("the second job started while the first reads %+v", o)
	}
}

// after demands that a job waits for others to end well, and never starts when one
// does not; or that it is refused.
func after(t *testing.T, b *bench) {
	behind := func(first ...job) backends.JobSpec {
		spec := b.spec(t, Program{})
		for _, f := range first {
			spec.After = append(spec.After, f.ID)
		}
		return spec
	}
	if !b.Backend.Capabilities().After {
		b.refused(t, "a job after another", behind(job{JobRef: backends.JobRef{ID: "1"}}))
		return
	}
	ends, lasts := b.submit(t, b.spec(t, Program{})), b.start(t, Program{UntilTerm: true})
	// One of the two never ends well.
	neither := b.submit(t, behind(ends, lasts))
	b.release(t, neither)
	b.release(t, ends)
	b.until(t, ends, backends.StateCompleted)
	b.barrier(t)
	b.neverStarted(t, neither)
	b.cancel(t, lasts)
	if o := b.eventually(t, neither, "given up", func(o backends.Job) bool { return o.State.Terminal() || o.Never }); o.State.Terminal() && o.State != backends.StateCancelled {
		t.Errorf("a job that can never start reads %+v", o)
	}
	b.neverStarted(t, neither)

	first := b.submit(t, b.spec(t, Program{}))
	last := b.submit(t, behind(first))
	b.release(t, last)
	b.barrier(t)
	b.neverStarted(t, last)
	b.release(t, first)
	b.until(t, last, backends.StateCompleted)
}

func unknownPartition(t *testing.T, b *bench) {
	spec := b.spec(t, Program{})
	spec.Partition = b.NoPartition
	b.refused(t, "unknown partition", spec)
}

func (b *bench) refused(t *testing.T, what string, spec backends.JobSpec) {
	t.Helper()
	ctx, stop := b.call()
	defer stop()
	id, err := b.Backend.Submit(ctx, spec)
	if err == nil {
		t.Errorf("%s: accepted as %s", what, id)
		return
	}
	var e *backends.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: the error is a %T (%v), want *backends.Error", what, err, err)
		return
	}
	if e.Kind != backends.KindInvalid || e.Op != "submit" || e.Key != spec.Key {
		t.Errorf("%s: op %q, kind %s, key %q (%v); want op submit, kind Invalid and the key", what, e.Op, e.Kind, e.Key, err)
	}
	if got := b.list(t, b.Owner); len(got) != 0 {
		t.Errorf("%s: refused, and yet listed as %+v", what, got)
	}
}

func invalidSpecs(t *testing.T, b *bench) {
	for _, c := range []struct {
		what   string
		mutate func(*backends.JobSpec)
	}{
		{"a key with a space", func(s *backends.JobSpec) { s.Key = "a b" }},
		{"a partition that is an option", func(s *backends.JobSpec) { s.Partition = "--uid=0" }},
		{"an account with a newline", func(s *backends.JobSpec) { s.Account = "a\n#SBATCH --uid=0" }},
		{"a constraint that is an option", func(s *backends.JobSpec) { s.Constraint = "-wnode1" }},
		{"a relative work dir", func(s *backends.JobSpec) { s.WorkDir = "here" }},
		{"root", func(s *backends.JobSpec) { s.User = "root" }},
		{"no tasks", func(s *backends.JobSpec) { s.Components[0].Tasks = 0 }},
		{"no components", func(s *backends.JobSpec) { s.Components = nil }},
	} {
		spec := b.spec(t, Program{})
		c.mutate(&spec)
		b.refused(t, c.what, spec)
	}
}

// hostileDirNames are legal names of directories that break careless quoting,
// pattern expansion of output paths and option parsing.
func hostileDirNames() []string {
	return []string{
		"two words", "trailing ", " leading", "quo'te", `double"quote`, "$HOME", "$(touch pwned)", "`touch pwned`",
		"semi;touch pwned", "a&b|c", "star*", "qu?es[tion]", "{a,b}", "ünïcödé 東京 🚀", `back\slash`, `new\nline`,
		"percent%j", "%%x%u%N", "comma,colon:equals=", "-dash", "--wrap=id", "#hash!", "~tilde", "...", "<in>out", "^caret",
	}
}

func hostileNames(t *testing.T, b *bench) {
	names := hostileDirNames()
	var jobs []job
	for _, name := range names {
		spec := b.spec(t, Program{})
		spec.WorkDir = b.Place(t, name, Program{Output: "found it"})
		j := b.submit(t, spec)
		b.release(t, j)
		jobs = append(jobs, j)
	}
	for i, j := range jobs {
		o := b.eventually(t, j, "ended", func(o backends.Job) bool { return o.State.Terminal() })
		if o.State != backends.StateCompleted || b.Trace(t, j.dir).Starts != 1 {
			t.Errorf("work dir %q: %s (%s, exit %d), started %d times", names[i], o.State, o.Reason, o.ExitCode, b.Trace(t, j.dir).Starts)
			continue
		}
		if b.Log != nil {
			if text := b.Log(t, j.dir); !strings.Contains(text, "found it") {
				t.Errorf("work dir %q: batch.log holds %q", names[i], text)
			}
		}
	}
}

func endedContext(t *testing.T, b *bench) {
	spec := b.spec(t, Program{})
	j := b.submit(t, b.spec(t, Program{}))
	ctx, stop := context.WithCancel(b.ctx)
	stop()
	for _, c := range []struct {
		op   string
		call func() error
	}{
		{"submit", func() error { _, err := b.Backend.Submit(ctx, spec); return err }},
		{"release", func() error { return b.Backend.Release(ctx, j.JobRef) }},
		{"cancel", func() error { return b.Backend.Cancel(ctx, j.JobRef) }},
		{"observe", func() error { _, err := b.Backend.Observe(ctx, b.Owner, b.Users); return err }},
		{"inventory", func() error { _, err := b.Backend.Inventory(ctx); return err }},
	} {
		ended := make(chan error, 1)
		go func() { ended <- c.call() }()
		select {
		case err := <-ended:
			var e *backends.Error
			if !errors.As(err, &e) {
				t.Errorf("%s with an ended context gave %v (%T), want a *backends.Error", c.op, err, err)
			} else if e.Kind != backends.KindTransient && e.Kind != backends.KindUnknownOutcome {
				t.Errorf("%s with an ended context: kind %s, want Transient or UnknownOutcome", c.op, e.Kind)
			}
		case <-time.After(patience):
			t.Fatalf("%s with an ended context hangs", c.op)
		}
	}
	b.neverStarted(t, j)
}

func concurrentSubmits(t *testing.T, b *bench) {
	const n = 20
	specs := make([]backends.JobSpec, n)
	for i := range specs {
		specs[i] = b.spec(t, Program{})
	}
	ids, errs := make([]backends.JobID, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range specs {
		wg.Go(func() {
			ctx, stop := b.call()
			defer stop()
			ids[i], errs[i] = b.Backend.Submit(ctx, specs[i])
		})
	}
	wg.Wait()
	keyOf := map[backends.JobID]backends.Key{}
	for i := range specs {
		if errs[i] != nil {
			t.Fatalf("submit %d of %d: %v", i, n, errs[i])
		}
		if other, dup := keyOf[ids[i]]; dup {
			t.Fatalf("keys %s and %s share the id %s", other, specs[i].Key, ids[i])
		}
		keyOf[ids[i]] = specs[i].Key
	}
	listed := b.list(t, b.Owner)
	if len(listed) != n {
		t.Fatalf("%d jobs are listed, want %d", len(listed), n)
	}
	for _, o := range listed {
		if keyOf[o.ID] != o.Key {
			t.Errorf("job %s was submitted as %s and is listed as %s", o.ID, keyOf[o.ID], o.Key)
		}
	}
}

func inventory(t *testing.T, b *bench) {
	b.barrier(t) // the suite's own earlier jobs have left the hosts
	ctx, stop := b.call()
	defer stop()
	inv, err := b.Backend.Inventory(ctx)
	if err != nil {
		t.Fatalf("inventory: %v", err)
	}
	if inv.System == "" || inv.Version == "" {
		t.Errorf("system %q, version %q: both must be named", inv.System, inv.Version)
	}
	at := slices.IndexFunc(inv.Partitions, func(p backends.Partition) bool { return p.Name == b.Partition })
	if at < 0 {
		t.Fatalf("partition %s is not listed in %+v", b.Partition, inv.Partitions)
	}
	if !inv.Partitions[at].Up || len(inv.Partitions[at].Hosts) == 0 {
		t.Errorf("partition %+v should be up and have hosts", inv.Partitions[at])
	}
	byName := func(x, y string) error {
		if x >= y {
			return fmt.Errorf("%q is listed before %q", x, y)
		}
		return nil
	}
	for i := 1; i < len(inv.Partitions); i++ {
		if err := byName(inv.Partitions[i-1].Name, inv.Partitions[i].Name); err != nil {
			t.Errorf("partitions: %v", err)
		}
	}
	hosts := map[string]backends.Host{}
	for i, h := range inv.Hosts {
		hosts[h.Name] = h
		if i > 0 {
			if err := byName(inv.Hosts[i-1].Name, h.Name); err != nil {
				t.Errorf("hosts: %v", err)
			}
		}
	}
	var cpus int64
	for _, name := range inv.Partitions[at].Hosts {
		h, ok := hosts[name]
		if !ok {
			t.Errorf("host %s of the partition is not listed", name)
			continue
		}
		if !h.Usable && h.Why == "" {
			t.Errorf("host %s is not usable and does not say why", name)
		}
		if h.Usable {
			cpus += h.CPUs
		}
	}
	if cpus < int64(b.Slots) {
		t.Errorf("the partition's usable hosts have %d CPUs, and yet run %d tasks", cpus, b.Slots)
	}
}
