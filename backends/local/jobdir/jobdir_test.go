package jobdir

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/backends"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseStat(t *testing.T) {
	rest := " S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 200"
	for _, name := range []string{"sh", "a b", "x) S 1 1 1", "(((", ""} {
		st, err := parseStat([]byte("12 (" + name + ")" + rest))
		if err != nil || st.Parent != 7 || st.Session != 9 || st.StartTicks != 4242 || st.Zombie {
			t.Errorf("program named %q: %+v (%v)", name, st, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sh) S 7 9 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1000 200"))
	f.Add([]byte(")"))
	f.Add([]byte("1 (x) Z"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if st, err := parseStat(text); err != nil && st.Parent != 0 && st.StartTicks != 0 {
			t.Fatalf("an error came with %+v", st)
		}
	})
}

// A number that was given to another process names nobody of ours.
func TestProcessIsMoreThanItsNumber(t *testing.T) {
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Lives() {
		t.Fatal("this process does not live")
	}
	for name, other := range map[string]Process{
		"started at another time": {PID: self.PID, StartTicks: self.StartTicks + 1, Boot: self.Boot},
		"of another boot":         {PID: self.PID, StartTicks: self.StartTicks, Boot: "another"},
		"no process":              {PID: 1 << 30, StartTicks: 1, Boot: self.Boot},
	} {
		if other.Lives() {
			t.Errorf("%s: it lives", name)
		}
		// Were it taken for this process, the test would end here.
		if err := other.Signal(os.Kill); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Make(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNumbersAreNeverGivenTwice(t *testing.T) {
	s := newStore(t)
	seen := map[backends.JobID]bool{}
	for range 5 {
		id, err := s.Create(backends.JobSpec{}, time.Unix(0, 0))
		if err != nil || seen[id] {
			t.Fatalf("id %s (%v)", id, err)
		}
		seen[id] = true
		if err := s.Remove(id); err != nil {
			t.Fatal(err)
		}
		s = Open(s.root) // as after a restart
	}
	if err := os.WriteFile(filepath.Join(s.root, "next"), []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	if id, err := s.Create(backends.JobSpec{}, time.Unix(0, 0)); err == nil {
		t.Fatalf("a damaged counter gave the id %s", id)
	}
}

func TestLockWaitsForTheContextOnly(t *testing.T) {
	s := newStore(t)
	unlock, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := s.Lock(ctx); err == nil {
		t.Fatal("the lock was taken twice")
	}
	unlock()
	unlock, err = s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// Every state that a crash can leave is read as a state of the job's life.
func TestLoadReadsEveryStep(t *testing.T) {
	s := newStore(t)
	spec := backends.JobSpec{Key: "k", User: "u", WorkDir: "/a b/東京 \"'"}
	id, err := s.Create(spec, time.Unix(7, 0))
	if err != nil {
		t.Fatal(err)
	}
	dir := s.dir(id)
	want := Job{}
	for _, step := range []struct {
		set    func() error
		change func()
	}{
		{func() error { return nil }, func() {}},
		{func() error { return SetReleased(dir) }, func() { want.Released = true }},
		{func() error { return SetStart(dir, Assignment{Tasks: []Task{{Host: "h-1", GPUs: []int{2}}}}) }, func() { want.Start = &Assignment{} }},
		{func() error { return SetLaunching(dir) }, func() { want.Launching = true }},
		{func() error { return SetCancelled(dir) }, func() { want.Cancelled = true }},
		{func() error { return SetEnd(dir, End{State: backends.StateCancelled, Signal: 15}) }, func() { want.End = &End{} }},
	} {
		for range 2 { // each fact is safe to state again
			if err := step.set(); err != nil {
				t.Fatal(err)
			}
		}
		step.change()
		j, ok, err := s.Get(id)
		if err != nil || !ok {
			t.Fatalf("get: %v, found %t", err, ok)
		}
		if j.Released != want.Released || j.Launching != want.Launching || j.Cancelled != want.Cancelled ||
			(j.Start != nil) != (want.Start != nil) || (j.End != nil) != (want.End != nil) || j.Spec.WorkDir != spec.WorkDir {
			t.Fatalf("read %+v, want %+v", j, want)
		}
		if j.Holds() != (want.Start != nil && want.End == nil) {
			t.Fatalf("holds hosts: %t", j.Holds())
		}
	}
}
