package pbs_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// submitted gives the command lines with which a server of a version gets a job.
func submitted(t *testing.T, dialect pbs.Dialect, version string, after ...backends.JobID) (argv []string, records string, err error) {
	t.Helper()
	r := &answers{t: t, files: map[string]string{"qstat --version": version, "qstat -B -f": "Server: s\n", "/bin/sh": "", "qsub": "9.pbs\n", "qstat -f 9.pbs": "Job Id: 9.pbs\n"}}
	r.say = func(c transport.Command) (transport.Result, error) {
		switch c.Argv[0] {
		case "qsub":
			argv = c.Argv
		case "/bin/sh":
			records = strings.Join(c.Argv[3:], " ")
		}
		return transport.Result{Exit: -1}, nil
	}
	_, err = replay(t, r, dialect).Submit(t.Context(), backends.JobSpec{Key: "k1", Owner: "o", User: "u", Partition: "workq", WorkDir: "/w", After: after,
		Components: []backends.Component{{Tasks: 1, CPUs: 1}}})
	return argv, records, err
}

// The option as recorded on OpenPBS 23.06.06; and who does not get it.
func TestAfterOption(t *testing.T) {
	argv, records, err := submitted(t, pbs.Pro, "pbs_version = 23.06.06\n", "18.pbs", "20.pbs")
	if at := slices.Index(argv, "-W"); err != nil || at < 0 || argv[at+1] != "depend=afterok:18.pbs:20.pbs" || !strings.HasSuffix(records, " 9.pbs after") {
		t.Errorf("%q, record %q, %v", argv, records, err)
	}
	if argv, records, err := submitted(t, pbs.Pro, "pbs_version = 23.06.06\n"); err != nil || slices.Contains(argv, "-W") || records != "" {
		t.Errorf("after nothing: %q, record %q, %v", argv, records, err)
	}
	for what, c := range map[string]struct {
		dialect pbs.Dialect
		version string
		after   backends.JobID
	}{
		"an old version": {pbs.Pro, "pbs_version = 19.1.3\n", "18.pbs"},
		"Torque":         {pbs.Torque, "Version: 6.1.3\n", "18.pbs"},
		"an array":       {pbs.Pro, "pbs_version = 23.06.06\n", "18[].pbs"},
		"another option": {pbs.Pro, "pbs_version = 23.06.06\n", "18.pbs,block=true"},
		"another type":   {pbs.Pro, "pbs_version = 23.06.06\n", "18:after"},
	} {
		if argv, _, err := submitted(t, c.dialect, c.version, c.after); backends.KindOf(err) != backends.KindInvalid || argv != nil || !strings.Contains(err.Error(), "after") {
			t.Errorf("%s: ran %q, %v", what, argv, err)
		}
	}
}

// The lines of held jobs, as recorded and as the manual has them.
func TestAfterIsRead(t *testing.T) {
	for what, c := range map[string]struct {
		state string
		lines []string
		want  backends.Job
	}{
		"recorded":               {"H", []string{"depend = afterok:18.pbs@pbs", "Hold_Types = s", "substate = 22"}, backends.Job{State: backends.StatePending, Reason: "Dependency"}},
		"held by us too":         {"H", []string{"depend = afterok:18.pbs@pbs", "Hold_Types = us", "substate = 22"}, backends.Job{State: backends.StatePending, Held: true, Reason: "JobHeldUser"}},
		"by an operator":         {"H", []string{"depend = afterok:18.pbs@pbs", "Hold_Types = uos"}, backends.Job{State: backends.StatePending, Held: true, Reason: "JobHeldAdmin"}},
		"it waits no more":       {"H", []string{"Hold_Types = u", "substate = 22"}, backends.Job{State: backends.StatePending, Held: true, Reason: "JobHeldUser"}},
		"others wait for it":     {"H", []string{"depend = beforeok:20.pbs@pbs", "Hold_Types = s"}, backends.Job{State: backends.StatePending, Held: true, Reason: "JobHeldAdmin"}},
		"given up":               {"F", []string{"depend = afterok:18.pbs@pbs", "substate = 93"}, backends.Job{State: backends.StateCancelled, Reason: "Dependency"}},
		"given up, with a code":  {"F", []string{"depend = afterok:18.pbs@pbs", "substate = 92", "Exit_status = 0"}, backends.Job{State: backends.StateCancelled, Reason: "Dependency"}},
		"given up, nothing told": {"F", []string{"substate = 91"}, backends.Job{State: backends.StateCancelled}},
		"it ran, and others wait": {"F", []string{"depend = beforeok:20.pbs@pbs", "stime = Tue Nov 24 03:19:13 2026", "Exit_status = 0", "substate = 92"},
			backends.Job{State: backends.StateCompleted}},
	} {
		o, err := observeText(t, pbs.Pro, jobText("19.pbs", c.state, c.lines...))
		if err != nil || len(o.Jobs) != 1 {
			t.Errorf("%s: %+v, %v", what, o, err)
			continue
		}
		if j := o.Jobs[0]; j.State != c.want.State || j.Held != c.want.Held || j.Reason != c.want.Reason || j.Never {
			t.Errorf("%s: %+v, want %+v", what, j, c.want)
		}
	}
}

// TestAfter is what the stand-in makes of a job that comes after another, by the manual
// of PBS: the provider relies on every row. Nothing of it was seen on a real PBS but how
// a job looks that waits.
func TestAfter(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]testbed.Config{"history": {History: true}, "no history": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, pbs.Pro, config)
			pair := func(p backendtest.Program) (first backends.JobRef, second backends.JobSpec) {
				first = s.submit(s.spec(p))
				second = s.spec(backendtest.Program{})
				second.After = []backends.JobID{first.ID}
				return first, second
			}
			release := func(ref backends.JobRef) {
				t.Helper()
				if err := s.Release(t.Context(), ref); err != nil {
					t.Fatal(err)
				}
			}
			gone := func(what string, ref backends.JobRef, spec backends.JobSpec) {
				t.Helper()
				if j := s.state(ref, backends.StateCancelled); !j.Started.IsZero() || s.disk.Trace(t, spec.WorkDir).Starts != 0 {
					t.Errorf("%s: %+v, started %d times", what, j, s.disk.Trace(t, spec.WorkDir).Starts)
				}
			}

			// It waits, held and released, and runs once the first has ended with 0.
			first, spec := pair(backendtest.Program{})
			second := s.submit(spec)
			if j := s.until(second, "held", func(j backends.Job) bool { return j.Held }); j.Reason != "JobHeldUser" {
				t.Errorf("held, and behind another: %+v", j)
			}
			release(second)
			if j := s.until(second, "waiting", func(j backends.Job) bool { return !j.Held }); j.State != backends.StatePending || j.Reason != "Dependency" || j.Never {
				t.Errorf("released behind one that waits: %+v", j)
			}
			release(first)
			done := s.state(second, backends.StateCompleted)
			if before := s.state(first, backends.StateCompleted); done.Started.Before(before.Ended.Truncate(time.Second)) {
				t.Errorf("started at %s, and the first ended at %s", done.Started, before.Ended)
			}

			// One that fails takes it with it, released or held, and what comes after that.
			first, spec = pair(backendtest.Program{ExitCode: 3})
			second = s.start(spec)
			third := s.spec(backendtest.Program{})
			third.After = []backends.JobID{second.ID}
			last := s.submit(third)
			release(first)
			gone("behind one that failed", second, spec)
			gone("behind one behind one that failed", last, third)

			// So does one that is deleted, whether it ran or not, and whatever its exit code.
			for what, runs := range map[string]bool{"deleted while it ran": true, "deleted while it waited": false} {
				first, spec = pair(forever)
				second = s.start(spec)
				if runs {
					release(first)
					s.state(first, backends.StateRunning)
				}
				if err := s.Cancel(t.Context(), first); err != nil {
					t.Fatal(err)
				}
				gone(what, second, spec)
			}

			// One that has ended well is in the way of nothing where the server remembers it.
			// Else the job is deleted, which says nothing of a failure: it is tried again.
			first, spec = pair(backendtest.Program{})
			release(first)
			s.state(first, backends.StateCompleted)
			if config.History {
				s.state(s.start(spec), backends.StateCompleted)
			} else {
				if id, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindTransient {
					t.Errorf("behind one that is forgotten: job %q, %v", id, err)
				}
				for _, j := range s.list() {
					if j.Key == spec.Key {
						t.Errorf("behind one that is forgotten: %+v", j)
					}
				}
				spec.After = nil
				s.state(s.start(spec), backends.StateCompleted)
			}

			// One that runs again has not ended.
			firstSpec := s.spec(forever)
			first = s.start(firstSpec)
			spec = s.spec(backendtest.Program{})
			spec.After = []backends.JobID{first.ID}
			second = s.start(spec)
			s.started(firstSpec, 1)
			s.admin("qrerun", string(first.ID))
			s.started(firstSpec, 2)
			if j := s.until(second, "waiting", func(backends.Job) bool { return true }); j.State != backends.StatePending || j.Reason != "Dependency" {
				t.Errorf("behind one that runs again: %+v", j)
			}
			if err := s.Cancel(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			gone("behind one that ran again and was deleted", second, spec)
		})
	}
}
