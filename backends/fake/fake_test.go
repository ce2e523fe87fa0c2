package fake_test

import (
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
)

// world is a System with short ways to use it.
type world struct {
	*fake.System
	t testing.TB
	n int
}

func newWorld(t testing.TB, cfg fake.Config) *world { return &world{System: fake.New(cfg), t: t} }

func (w *world) spec(tasks int) backends.JobSpec {
	w.n++
	return backends.JobSpec{
		Key: backends.Key("k" + strconv.Itoa(w.n)), Owner: "mine", User: "alice", WorkDir: "/w", Grace: 30 * time.Second,
		Components: []backends.Component{{Tasks: tasks, CPUs: 1}},
	}
}

func (w *world) submit(spec backends.JobSpec) backends.JobRef {
	w.t.Helper()
	id, err := w.Submit(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
}

func (w *world) start(spec backends.JobSpec) backends.JobRef {
	w.t.Helper()
	ref := w.submit(spec)
	if err := w.Release(w.t.Context(), ref); err != nil {
		w.t.Fatal(err)
	}
	return ref
}

func (w *world) want(ref backends.JobRef, state backends.State, reason string) backends.Job {
	w.t.Helper()
	j, ok := w.Job(ref.ID)
	if !ok || j.State != state || reason != "" && j.Reason != reason {
		w.t.Fatalf("at %s job %s is %s (%s), want %s (%s)", w.Now().Format(time.TimeOnly), ref.ID, j.State, j.Reason, state, reason)
	}
	return j
}

func TestRequeueKeepsTheIDAndCounts(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	ref := w.start(w.spec(1))
	w.want(ref, backends.StateRunning, "")
	w.Requeue(ref.ID)
	if j := w.want(ref, backends.StatePending, "BeginTime"); j.Restarts != 1 || !j.Started.IsZero() || len(j.Hosts) != 0 {
		t.Fatalf("requeued job %+v", j)
	}
	w.Advance(119 * time.Second)
	w.want(ref, backends.StatePending, "BeginTime")
	w.Advance(time.Second)
	w.want(ref, backends.StateRunning, "")
	if v := w.Violations(); len(v) != 0 {
		t.Fatalf("a requeue is no violation: %v", v)
	}
	if n := w.Starts("mine", ref.Key); n != 2 {
		t.Fatalf("%d starts, want 2", n)
	}
}

func TestHostFailure(t *testing.T) {
	for name, c := range map[string]struct {
		requeue bool
		want    backends.State
	}{"requeued": {true, backends.StatePending}, "lost": {false, backends.StateNodeFail}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fake.Uniform(2, 2, 0, "", 0))
			gang := w.start(w.spec(4))
			w.FailHost("h002", c.requeue)
			w.want(gang, c.want, "")
			next := w.start(w.spec(2))
			w.want(next, backends.StateRunning, "")
			if j, _ := w.Job(next.ID); !slices.Equal(j.Hosts, []string{"h001"}) {
				t.Fatalf("the next job runs on %v", j.Hosts)
			}
			w.RepairHost("h002")
			w.Finish(next.ID, 0, 0)
			w.Advance(time.Hour)
			if c.requeue {
				w.want(gang, backends.StateRunning, "")
			}
		})
	}
}

func TestPreemption(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	ends, comesBack, cancelled := w.start(w.spec(1)), w.start(w.spec(1)), w.start(w.spec(1))
	w.Preempt(ends.ID, time.Minute, false)
	w.Preempt(comesBack.ID, time.Minute, true)
	w.Preempt(cancelled.ID, time.Minute, true)
	w.want(ends, backends.StateCompleting, "Preempted")
	if err := w.Cancel(t.Context(), cancelled); err != nil {
		t.Fatal(err)
	}
	w.Advance(0)
	w.want(ends, backends.StatePreempted, "")
	w.want(comesBack, backends.StatePending, "BeginTime")
	w.want(cancelled, backends.StateCancelled, "")
}

func TestEndsOfPrograms(t *testing.T) {
	cfg := fake.Uniform(1, 8, 0, "", 0)
	behaviours := map[backends.Key]fake.Behaviour{
		"k1": {Duration: time.Minute},
		"k2": {Duration: time.Minute, ExitCode: 7},
		"k3": {Duration: time.Minute, OutOfMemory: true},
		"k4": {Forever: true, TermDelay: 5 * time.Second},
		"k5": {Forever: true, IgnoreTerm: true},
		"k6": {Forever: true},
	}
	cfg.Program = func(spec backends.JobSpec) fake.Behaviour { return behaviours[spec.Key] }
	w := newWorld(t, cfg)
	var refs []backends.JobRef
	for range behaviours {
		spec := w.spec(1)
		spec.Walltime = 10 * time.Minute
		refs = append(refs, w.start(spec))
	}
	w.OutOfMemory(refs[5].ID)
	w.Advance(59 * time.Second)
	w.want(refs[0], backends.StateRunning, "")
	w.Advance(time.Second)
	w.want(refs[0], backends.StateCompleted, "")
	if j := w.want(refs[1], backends.StateFailed, ""); j.ExitCode != 7 {
		t.Errorf("exit code %d, want 7", j.ExitCode)
	}
	w.want(refs[2], backends.StateOutOfMemory, "")
	w.want(refs[5], backends.StateOutOfMemory, "")
	w.Advance(9 * time.Minute) // the walltime is over
	w.want(refs[3], backends.StateCompleting, "TimeLimit")
	w.Advance(5 * time.Second)
	w.want(refs[3], backends.StateTimeout, "TimeLimit")
	w.want(refs[4], backends.StateCompleting, "TimeLimit")
	w.Advance(25 * time.Second)
	if j := w.want(refs[4], backends.StateTimeout, ""); j.Signal != 9 {
		t.Errorf("it was ended by signal %d, want 9", j.Signal)
	}
	if _, known := w.Job(refs[0].ID); known {
		t.Error("a job that ended ten minutes ago is still known")
	}
}

func TestHooksComeInOrderAndMayCallBack(t *testing.T) {
	var calls []string
	var w *world
	cfg := fake.Uniform(1, 1, 0, "", 0)
	cfg.Program = func(backends.JobSpec) fake.Behaviour {
		note := func(what string) func(fake.Run) {
			return func(r fake.Run) {
				calls = append(calls, what+" "+string(r.Spec.Key)+" on "+r.HostOf[0])
				if j, ok := w.Job(r.Job); !ok || j.Key != r.Spec.Key { // does not deadlock
					t.Errorf("the hook sees %+v", j)
				}
			}
		}
		return fake.Behaviour{
			Duration: time.Minute, TermDelay: time.Second, OnStart: note("start"), OnTerm: note("term"),
			OnEnd: func(r fake.Run, s backends.State) { note("end " + string(s))(r) },
		}
	}
	w = newWorld(t, cfg)
	first := w.start(w.spec(1))
	w.start(w.spec(1))
	if err := w.Cancel(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.Advance(time.Hour)
	want := []string{"start k1 on h001", "term k1 on h001", "end Cancelled k1 on h001", "start k2 on h001", "end Completed k2 on h001"}
	if !slices.Equal(calls, want) {
		t.Fatalf("calls %q, want %q", calls, want)
	}
}

func TestQueueOrder(t *testing.T) {
	for name, c := range map[string]struct {
		backfill bool
		want     backends.State
		reason   string
	}{"strict": {false, backends.StatePending, "Priority"}, "backfill": {true, backends.StateRunning, ""}} {
		t.Run(name, func(t *testing.T) {
			cfg := fake.Uniform(1, 4, 0, "", 0)
			cfg.Backfill = c.backfill
			w := newWorld(t, cfg)
			w.start(w.spec(3))
			blocked := w.start(w.spec(2))
			w.want(blocked, backends.StatePending, "Resources")
			small := w.start(w.spec(1))
			w.want(small, c.want, c.reason)
			w.SetPriority(small.ID, 5)
			w.want(small, backends.StateRunning, "")
		})
	}
	t.Run("what never fits does not block", func(t *testing.T) {
		w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
		if j := w.want(w.start(w.spec(5)), backends.StatePending, "PartitionNodeLimit"); !j.Never {
			t.Error("it is not marked Never")
		}
		w.want(w.start(w.spec(4)), backends.StateRunning, "")
	})
	t.Run("an administrator's hold", func(t *testing.T) {
		w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
		ref := w.submit(w.spec(1))
		w.HoldByAdmin(ref.ID)
		if err := w.Release(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		if j := w.want(ref, backends.StatePending, "JobHeldAdmin"); !j.Held {
			t.Error("it does not read held")
		}
		w.AdminRelease(ref.ID)
		w.want(ref, backends.StateRunning, "")
	})
	t.Run("foreign use", func(t *testing.T) {
		w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
		w.SetForeign("h001", backends.Amounts{CPUs: 3})
		ref := w.start(w.spec(2))
		w.want(ref, backends.StatePending, "Resources")
		inv, err := w.Inventory(t.Context())
		if err != nil || inv.Hosts[0].Allocated.CPUs != 3 {
			t.Fatalf("inventory %+v (%v)", inv, err)
		}
		w.SetForeign("h001", backends.Amounts{})
		w.want(ref, backends.StateRunning, "")
	})
}

// The detectors must detect: a caller that submits twice is caught even though
// the second job runs after the first.
func TestViolations(t *testing.T) {
	cfg := fake.Uniform(1, 4, 0, "", 0)
	cfg.NoSingleton = true
	w := newWorld(t, cfg)
	spec := w.spec(1)
	w.start(spec)
	w.start(spec)
	if v := w.Violations(); len(v) != 2 {
		t.Fatalf("two jobs of a key at once give %q, want a double run and a second run", v)
	}
	w = newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	spec = w.spec(1)
	first := w.start(spec)
	w.start(spec)
	if v := w.Violations(); len(v) != 0 {
		t.Fatalf("singleton let %q happen", v)
	}
	w.Finish(first.ID, 0, 0)
	if v := w.Violations(); len(v) != 1 {
		t.Fatalf("a key that runs again gives %q, want a second run", v)
	}
}

func TestHeldNamesLeaks(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	leak := w.submit(w.spec(1))
	w.start(w.spec(1))
	w.Advance(10 * time.Minute)
	w.submit(w.spec(1))
	held := w.Held("mine", 5*time.Minute)
	if len(held) != 1 || held[0].ID != leak.ID {
		t.Fatalf("leaks %+v, want only %s", held, leak.ID)
	}
}

// Whatever is done to it: hosts are never overdrawn and are free in the end,
// and the same calls give the same history.
func TestRandomLife(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			what, job int
			d         time.Duration
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{rapid.IntRange(0, 9).Draw(rt, "what"), rapid.IntRange(0, 9).Draw(rt, "job"), time.Duration(rapid.IntRange(0, 200).Draw(rt, "s")) * time.Second}
		}), 1, 60).Draw(rt, "steps")
		play := func() []fake.Entry {
			cfg := fake.Uniform(3, 2, 0, "a100", 2)
			cfg.Program = func(spec backends.JobSpec) fake.Behaviour {
				return fake.Behaviour{Duration: time.Duration(len(spec.Key)*40) * time.Second, TermDelay: 3 * time.Second}
			}
			w := newWorld(t, cfg)
			var refs []backends.JobRef
			for _, s := range steps {
				if len(refs) <= s.job {
					spec := w.spec(s.job%5 + 1)
					spec.Components[0].GPUs = map[string]int64{"": 1}
					refs = append(refs, w.submit(spec))
				}
				ref := refs[s.job%len(refs)]
				if _, known := w.Job(ref.ID); !known {
					continue
				}
				switch s.what {
				case 0, 1, 2, 3:
					_ = w.Release(t.Context(), ref)
				case 4:
					_ = w.Cancel(t.Context(), ref)
				case 5:
					w.Requeue(ref.ID)
				case 6:
					w.Preempt(ref.ID, s.d, s.job%2 == 0)
				case 7:
					w.FailHost("h002", s.job%2 == 0)
				case 8:
					w.RepairHost("h002")
				case 9:
					w.Finish(ref.ID, 0, 0)
				}
				w.Advance(s.d)
				inv, err := w.Inventory(t.Context())
				if err != nil {
					rt.Fatal(err)
				}
				for _, h := range inv.Hosts {
					if h.Allocated.CPUs < 0 || h.Allocated.CPUs > h.CPUs || h.Allocated.GPUs["a100"] < 0 || h.Allocated.GPUs["a100"] > 2 {
						rt.Fatalf("host %+v", h)
					}
				}
			}
			for _, ref := range refs {
				_ = w.Cancel(t.Context(), ref)
			}
			w.Advance(24 * time.Hour)
			inv, _ := w.Inventory(t.Context())
			for _, h := range inv.Hosts {
				if h.Allocated.CPUs != 0 || h.Allocated.GPUs["a100"] != 0 {
					rt.Fatalf("host %+v is not free in the end", h)
				}
			}
			if v, left := w.Violations(), w.Jobs(); len(v) != 0 || len(left) != 0 {
				rt.Fatalf("violations %q, jobs left %+v", v, left)
			}
			return w.History()
		}
		if a, b := play(), play(); !reflect.DeepEqual(a, b) {
			rt.Fatal("the same calls gave two histories")
		}
	})
}
