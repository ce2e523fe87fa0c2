package fake_test

import (
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
)

func TestFaultsInOneLine(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(*fake.System)
		kind  backends.Kind // of the next submit; "" succeeds
		done  bool
	}{
		"throttled":           {func(s *fake.System) { s.Fail(fake.OpSubmit, backends.KindThrottled) }, backends.KindThrottled, false},
		"reply lost":          {func(s *fake.System) { s.LoseReply(fake.OpSubmit) }, backends.KindUnknownOutcome, true},
		"request lost":        {func(s *fake.System) { s.LoseRequest(fake.OpSubmit) }, backends.KindUnknownOutcome, false},
		"outage":              {func(s *fake.System) { s.Outage(time.Minute) }, backends.KindUnknownOutcome, false},
		"another operation":   {func(s *fake.System) { s.Fail(fake.OpCancel, backends.KindTransient) }, "", true},
		"another key":         {func(s *fake.System) { s.Inject(fake.Fault{Key: "other", Kind: backends.KindDenied}) }, "", true},
		"only the second":     {func(s *fake.System) { s.Inject(fake.Fault{Op: fake.OpSubmit, Skip: 1, Kind: backends.KindDenied}) }, "", true},
		"cleared":             {func(s *fake.System) { s.Outage(time.Minute); s.ClearFaults() }, "", true},
		"not before its time": {func(s *fake.System) { s.Inject(fake.Fault{Kind: backends.KindDenied, From: s.Now().Add(1)}) }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
			c.fault(w.System)
			id, err := w.Submit(t.Context(), w.spec(1))
			if kind := backends.KindOf(err); kind != c.kind || (err == nil) != (id != "") {
				t.Fatalf("submit gave %q, %v; want kind %q", id, err, c.kind)
			}
			if done := len(w.Jobs()) == 1; done != c.done {
				t.Fatalf("done = %t, want %t", done, c.done)
			}
		})
	}
}

func TestFaultIsUsedUp(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	w.Inject(fake.Fault{Op: fake.OpSubmit, Kind: backends.KindTransient, Times: 2})
	for i, want := range []backends.Kind{backends.KindTransient, backends.KindTransient, ""} {
		if _, err := w.Submit(t.Context(), w.spec(1)); backends.KindOf(err) != want {
			t.Fatalf("submit %d: %v, want kind %q", i, err, want)
		}
	}
	if calls, done := w.Calls()[fake.OpSubmit], w.Effects()[fake.OpSubmit]; calls != 3 || done != 1 {
		t.Fatalf("%d calls, %d effects; want 3 and 1", calls, done)
	}
}

func TestOutageEnds(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	w.Outage(time.Minute)
	if _, err := w.Observe(t.Context(), "mine", nil); backends.KindOf(err) != backends.KindTransient {
		t.Fatalf("observe: %v, want an error of kind Transient", err)
	}
	w.Advance(time.Minute)
	if _, err := w.Observe(t.Context(), "mine", nil); err != nil {
		t.Fatal(err)
	}
}

func TestSlowCallsTakeVirtualTime(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	before := w.Now()
	w.Slow(fake.OpSubmit, 30*time.Second)
	w.submit(w.spec(1))
	if passed := w.Now().Sub(before); passed != 30*time.Second {
		t.Fatalf("%s passed", passed)
	}
}

func TestWrongLists(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	ref := w.start(w.spec(1))
	w.StaleLists(1)
	w.Finish(ref.ID, 0, 0)
	list := func() backends.Observation {
		t.Helper()
		got, err := w.Observe(t.Context(), "mine", nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := list(); !got.Complete || got.Jobs[0].State != backends.StateRunning {
		t.Fatalf("the stale list is %+v", got)
	}
	if got := list(); got.Jobs[0].State != backends.StateCompleted {
		t.Fatalf("the next list is %+v", got)
	}
	w.IncompleteLists(1, nil)
	if got := list(); got.Complete || len(got.Jobs) != 0 {
		t.Fatalf("the incomplete list is %+v", got)
	}
	w.Skew(time.Hour)
	if got := list(); !got.Complete || got.Jobs[0].Ended.Sub(w.Now()) != time.Hour {
		t.Fatalf("the list with a wrong clock is %+v", got)
	}
}

// Ids come round again on a long-lived cluster: a reference to the old job must
// not reach the new one.
func TestReusedID(t *testing.T) {
	w := newWorld(t, fake.Uniform(1, 4, 0, "", 0))
	old := w.start(w.spec(1))
	w.Finish(old.ID, 0, 0)
	w.SetNextID(1)
	reused := w.start(w.spec(1))
	if reused.ID != old.ID {
		t.Fatalf("the id is %s, want %s again", reused.ID, old.ID)
	}
	if err := w.Cancel(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	w.Advance(10 * time.Minute) // the old job's time to be forgotten, too
	w.want(reused, backends.StateRunning, "")
}
