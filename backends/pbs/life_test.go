package pbs_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// site is a stand-in with a backend on it.
type site struct {
	*pbs.Backend
	t       *testing.T
	cluster *testbed.Cluster
	disk    *backendtest.Disk
	n       int
}

func newSite(t *testing.T, dialect pbs.Dialect, config testbed.Config) *site {
	t.Helper()
	config.Torque = dialect == pbs.Torque
	c := standin(t, config)
	b, _ := backendOn(t, c, dialect)
	return &site{Backend: b, t: t, cluster: c, disk: backendtest.DiskOf(t, account.Alice)}
}

func (s *site) spec(p backendtest.Program, components ...backends.Component) backends.JobSpec {
	s.t.Helper()
	s.n++
	if len(components) == 0 {
		components = []backends.Component{{Tasks: 1, CPUs: 1}}
	}
	return backends.JobSpec{
		Key: backends.Key("k" + strings.Repeat("x", s.n)), Owner: "o", User: account.Alice, Partition: "workq",
		WorkDir: s.disk.Place(s.t, "w", p), Components: components,
	}
}

func (s *site) submit(spec backends.JobSpec) backends.JobRef {
	s.t.Helper()
	id, err := s.Submit(s.t.Context(), spec)
	if err != nil {
		s.t.Fatal(err)
	}
	return backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
}

func (s *site) start(spec backends.JobSpec) backends.JobRef {
	s.t.Helper()
	ref := s.submit(spec)
	if err := s.Release(s.t.Context(), ref); err != nil {
		s.t.Fatal(err)
	}
	return ref
}

func (s *site) list() []backends.Job {
	s.t.Helper()
	o, err := s.Observe(s.t.Context(), "o", []string{account.Alice})
	if err != nil {
		s.t.Fatal(err)
	}
	return o.Jobs
}

func (s *site) until(ref backends.JobRef, what string, done func(backends.Job) bool) backends.Job {
	s.t.Helper()
	var last backends.Job
	for range 1200 {
		for _, j := range s.list() {
			if j.ID == ref.ID {
				if last = j; done(j) {
					return j
				}
			}
		}
		<-time.After(50 * time.Millisecond)
	}
	s.t.Fatalf("job %s never was %s; last seen %+v", ref.ID, what, last)
	return last
}

func (s *site) state(ref backends.JobRef, want backends.State) backends.Job {
	s.t.Helper()
	return s.until(ref, string(want), func(j backends.Job) bool { return j.State == want })
}

func (s *site) started(spec backends.JobSpec, times int) {
	s.t.Helper()
	for range 1200 {
		if s.disk.Trace(s.t, spec.WorkDir).Starts == times {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	s.t.Fatalf("the program in %s started %d times, want %d", spec.WorkDir, s.disk.Trace(s.t, spec.WorkDir).Starts, times)
}

func (s *site) admin(argv ...string) string {
	s.t.Helper()
	out, err := s.cluster.Run(s.t.Context(), argv...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *site) happens(args ...string) {
	s.t.Helper()
	if err := s.cluster.Control(s.t.Context(), args...); err != nil {
		s.t.Fatal(err)
	}
}

var forever = backendtest.Program{UntilTerm: true}

// What befalls a running job: run again by the administrator, its host lost,
// held, suspended, and at last deleted by the administrator.
func TestWhatTheSiteDoes(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{History: true})
	spec := s.spec(forever)
	ref := s.start(spec)
	s.started(spec, 1)

	s.admin("qrerun", string(ref.ID))
	s.started(spec, 2)
	if j := s.state(ref, backends.StateRunning); j.Restarts != 1 || !j.Ended.IsZero() {
		t.Errorf("run again: %+v", j)
	}
	host := s.state(ref, backends.StateRunning).Hosts[0]
	s.happens("down", host)
	s.started(spec, 3)
	if j := s.state(ref, backends.StateRunning); j.Restarts != 2 || len(j.Hosts) != 1 || j.Hosts[0] == host {
		t.Errorf("after the loss of host %s: %+v", host, j)
	}
	inv, err := s.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range inv.Hosts {
		if h.Usable != (h.Name != host) || h.Name == host && h.Why != "down" {
			t.Errorf("host %+v while %s is down", h, host)
		}
	}
	s.happens("suspend", string(ref.ID))
	s.state(ref, backends.StateSuspended)
	s.happens("resume", string(ref.ID))
	s.state(ref, backends.StateRunning)

	s.admin("qhold", "-h", "s", string(ref.ID))
	s.admin("qrerun", string(ref.ID))
	j := s.until(ref, "held", func(j backends.Job) bool { return j.Held })
	if j.State != backends.StatePending || j.Reason != "JobHeldAdmin" || j.Restarts != 3 || len(j.Hosts) != 0 {
		t.Errorf("held by the administrator: %+v", j)
	}
	// Its user's release is no error and changes nothing.
	if err := s.Release(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if j := s.state(ref, backends.StatePending); !j.Held {
		t.Errorf("released by its user: %+v", j)
	}
	s.admin("qrls", "-h", "s", string(ref.ID))
	s.started(spec, 4)
	s.admin("qdel", string(ref.ID))
	if j := s.state(ref, backends.StateCancelled); j.Restarts != 3 {
		t.Errorf("deleted by the administrator: %+v", j)
	}

	// Not to be run again: the loss of its host ends it.
	s.happens("up", host)
	spec = s.spec(forever)
	ref = s.submit(spec)
	for _, h := range []string{"n1", "n2"} {
		s.admin("pbsnodes", "-o", h)
	}
	if err := s.Release(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	j = s.until(ref, "waiting with a reason", func(j backends.Job) bool { return j.Reason != "" && !j.Held })
	if j.Never || j.State != backends.StatePending {
		t.Errorf("waits for hosts: %+v", j)
	}
	s.admin("pbsnodes", "-r", "n1")
	s.started(spec, 1)
}

// A submit whose reply is lost is found by its key, and never again submitted.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	for _, dialect := range []pbs.Dialect{pbs.Pro, pbs.Torque} {
		s := newSite(t, dialect, testbed.Config{KeepCompleted: time.Second})
		spec := s.spec(backendtest.Program{})
		s.happens("lose", "qsub", "1")
		if id, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindUnknownOutcome {
			t.Fatalf("%s: submit gave %q, %v", dialect, id, err)
		}
		jobs := s.list()
		if len(jobs) != 1 || jobs[0].Key != spec.Key || !jobs[0].Held {
			t.Fatalf("%s: found %+v", dialect, jobs)
		}
		ref := backends.JobRef{ID: jobs[0].ID, Key: spec.Key, User: spec.User}
		s.happens("lose", "qrls", "1")
		if err := s.Release(t.Context(), ref); backends.KindOf(err) != backends.KindUnknownOutcome {
			t.Errorf("%s: release: %v", dialect, err)
		}
		if err := s.Release(t.Context(), ref); err != nil {
			t.Errorf("%s: release again: %v", dialect, err)
		}
		s.state(ref, backends.StateCompleted)
		spec = s.spec(forever)
		ref = s.start(spec)
		s.started(spec, 1)
		s.happens("lose", "qdel", "1")
		if err := s.Cancel(t.Context(), ref); backends.KindOf(err) != backends.KindUnknownOutcome {
			t.Errorf("%s: cancel: %v", dialect, err)
		}
		if err := s.Cancel(t.Context(), ref); err != nil {
			t.Errorf("%s: cancel again: %v", dialect, err)
		}
		s.state(ref, backends.StateCancelled)
		if n := s.disk.Trace(t, spec.WorkDir).Starts; n != 1 {
			t.Errorf("%s: it started %d times", dialect, n)
		}
	}
}

// The server is away: nothing was done, and everybody says so.
func TestServerGone(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{})
	held := s.submit(s.spec(backendtest.Program{}))
	running := s.spec(backendtest.Program{ExitCode: 5, UntilTerm: true})
	ref := s.start(running)
	s.started(running, 1)
	s.happens("gone")
	kinds := map[string]error{}
	_, kinds["submit"] = s.Submit(t.Context(), s.spec(backendtest.Program{}))
	_, kinds["observe"] = s.Observe(t.Context(), "o", []string{account.Alice})
	_, kinds["inventory"] = s.Inventory(t.Context())
	kinds["release"] = s.Release(t.Context(), held)
	kinds["cancel"] = s.Cancel(t.Context(), held)
	for op, err := range kinds {
		if backends.KindOf(err) != backends.KindTransient || !strings.Contains(err.Error(), "Connection refused") {
			t.Errorf("%s without a server: %v", op, err)
		}
	}
	s.happens("back")
	s.state(ref, backends.StateRunning)
	if j := s.state(held, backends.StatePending); !j.Held {
		t.Errorf("the held job reads %+v", j)
	}
}

// Other people's jobs, arrays and copies of our tag neither hide ours nor pass
// for them.
func TestOthersJobs(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{History: true})
	ref := s.submit(s.spec(backendtest.Program{}))
	theirs := ref
	theirs.User = account.Bob
	if err := s.Cancel(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("cancel of another user's job: %v, want Denied", err)
	}
	if err := s.Release(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("release of another user's job: %v, want Denied", err)
	}
	foreign := func(user string, args ...string) {
		t.Helper()
		res, err := local.New().Run(t.Context(), transport.Command{
			User: user, Env: s.cluster.Env(), Argv: append([]string{"qsub", "-h", "-o", "/dev/null", "-j", "oe"}, args...),
			Stdin: strings.NewReader("exit 0\n"),
		})
		if err != nil || res.Exit != 0 {
			t.Fatalf("qsub %q: %v %s", args, err, res.Stderr)
		}
	}
	foreign(account.Bob, "-v", "ISTHMUS_TAG=isthmus/o/"+string(ref.Key))
	foreign(account.Alice, "-J", "0-2", "-v", "ISTHMUS_TAG=isthmus/o/k1")
	for _, v := range []string{"ISTHMUS_TAG=isthmus/o/", "ISTHMUS_TAG=isthmus/o/NOT-A-KEY", "ISTHMUS_TAG=isthmus/other/k1", "X=ISTHMUS_TAG=isthmus/o/k1",
		`X=a\,ISTHMUS_TAG=isthmus/o/k1`, "XISTHMUS_TAG=isthmus/o/k1", "ISTHMUS_TAG=isthmus/o/k1/more"} {
		foreign(account.Alice, "-N", "isthmus/o/k1", "-v", v)
	}
	jobs := s.list()
	if len(jobs) != 1 || jobs[0].ID != ref.ID || jobs[0].User != account.Alice {
		t.Errorf("observed %+v", jobs)
	}
}

func TestTypedGPUsAndConstraints(t *testing.T) {
	t.Parallel()
	hosts := []testbed.Host{
		{Name: "a", CPUs: 8, MemoryMiB: 8000, GPUs: 4, Resources: map[string]string{"gpu_model": "a100", "switch": "s1"}, Properties: []string{"a100", "s1"}},
		{Name: "h", VNodes: 2, CPUs: 8, MemoryMiB: 8000, GPUs: 4, Resources: map[string]string{"gpu_model": "h100", "switch": "s2"}, Properties: []string{"h100", "s2"}},
	}
	for _, dialect := range []pbs.Dialect{pbs.Pro, pbs.Torque} {
		if dialect == pbs.Torque {
			hosts[1].VNodes = 0
		}
		s := newSite(t, dialect, testbed.Config{History: true, Hosts: hosts, KeepCompleted: time.Minute})
		constraint := map[pbs.Dialect]string{pbs.Pro: "switch=s2", pbs.Torque: "s2"}[dialect]
		spec := s.spec(forever, backends.Component{Tasks: 1, CPUs: 2, MemoryMiB: 100, GPUs: map[string]int64{"h100": 3}}, backends.Component{Tasks: 1, CPUs: 1})
		spec.Constraint, spec.Account, spec.Walltime = constraint, "phys", 90*time.Minute
		ref := s.start(spec)
		s.started(spec, 1)
		if j := s.state(ref, backends.StateRunning); len(j.Hosts) != 1 || j.Hosts[0] != "h" {
			t.Errorf("%s: runs on %v", dialect, j.Hosts)
		}
		inv, err := s.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(inv.Hosts) != 2 {
			t.Fatalf("%s: hosts %+v", dialect, inv.Hosts)
		}
		a, h := inv.Hosts[0], inv.Hosts[1]
		kind := map[pbs.Dialect]string{pbs.Pro: "h100", pbs.Torque: ""}[dialect]
		if h.Allocated.GPUs[kind] != 3 || h.Allocated.CPUs != 3 || a.Allocated.CPUs != 0 || len(a.Allocated.GPUs) != 0 || h.CPUs != int64(8*max(1, hosts[1].VNodes)) {
			t.Errorf("%s: hosts %+v", dialect, inv.Hosts)
		}
		spec = s.spec(forever, backends.Component{Tasks: 1, CPUs: 1, GPUs: map[string]int64{"v100": 1}})
		id, err := s.Submit(t.Context(), spec)
		if dialect == pbs.Torque && backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("%s: a type that no host has: %s, %v", dialect, id, err)
		}
		spec = s.spec(forever)
		spec.Constraint = map[pbs.Dialect]string{pbs.Pro: "nosuch=1", pbs.Torque: "nosuch"}[dialect]
		if _, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("%s: an unknown constraint: %v", dialect, err)
		}
	}
}

// A job that has one host only waits for it, though others are free.
func TestOneHost(t *testing.T) {
	t.Parallel()
	hosts := []testbed.Host{{Name: "a", CPUs: 4, MemoryMiB: 8000}, {Name: "b", CPUs: 4, MemoryMiB: 8000}}
	for _, dialect := range []pbs.Dialect{pbs.Pro, pbs.Torque} {
		s := newSite(t, dialect, testbed.Config{History: true, Hosts: hosts, KeepCompleted: time.Minute})
		two := func() backends.JobSpec {
			spec := s.spec(forever, backends.Component{Tasks: 2, CPUs: 1}, backends.Component{Tasks: 1, CPUs: 2})
			spec.Host = "b"
			return spec
		}
		spec := two()
		first := s.start(spec)
		s.started(spec, 1)
		if j := s.state(first, backends.StateRunning); !slices.Equal(j.Hosts, []string{"b"}) {
			t.Errorf("%s: runs on %v", dialect, j.Hosts)
		}
		second := s.start(two())
		s.state(second, backends.StatePending)
		if err := s.Cancel(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if j := s.state(second, backends.StateRunning); !slices.Equal(j.Hosts, []string{"b"}) {
			t.Errorf("%s: the second runs on %v", dialect, j.Hosts)
		}
		spec = two()
		spec.Host = "b+a"
		if _, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("%s: a host that is none: %v", dialect, err)
		}
	}
}

// The environment of the daemon's commands and of a pod never reaches qsub: it
// carries four variables of ours with characters that mean nothing.
func TestEnvironmentThatReachesTheJob(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{History: true})
	spec := s.spec(backendtest.Program{})
	script := "#!/bin/sh\nenv -0 >./env\nexit 0\n"
	if err := os.WriteFile(filepath.Join(spec.WorkDir, "podrun"), []byte(script), 0o700); err != nil { //nolint:gosec // a program of the test
		t.Fatal(err)
	}
	s.state(s.start(spec), backends.StateCompleted)
	text, err := os.ReadFile(filepath.Join(spec.WorkDir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	for entry := range strings.SplitSeq(strings.TrimRight(string(text), "\x00"), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		known := strings.HasPrefix(name, "PBS_")
		switch name {
		case "HOME", "USER", "LOGNAME", "PATH", "PWD", "OLDPWD", "SHLVL", "_", "ISTHMUS_TESTBED":
			known = true
		case "ISTHMUS_TAG", "ISTHMUS_DIR", "ISTHMUS_RECORDS", "ISTHMUS_WALLTIME":
			known = strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789/.-") == ""
		}
		if !known {
			t.Errorf("the job has %q", entry)
		}
	}
}

// Names that Isthmus's configuration may not pass either.
func TestConfigIsChecked(t *testing.T) {
	records := func(string) (string, error) { return "/r", nil }
	for _, env := range []string{"LD_PRELOAD=x", "PBS_O_PATH=x", "ISTHMUS_TAG=x", "PBS_DPREFIX=x", "no value", "=x"} {
		if _, err := pbs.New(pbs.Config{Runner: local.New(), Dialect: pbs.Pro, Records: records, Env: []string{env}}); err == nil {
			t.Errorf("environment %q is accepted", env)
		}
	}
	for what, c := range map[string]pbs.Config{
		"no runner": {Dialect: pbs.Pro, Records: records}, "no dialect": {Runner: local.New(), Records: records}, "no records": {Runner: local.New(), Dialect: pbs.Pro},
	} {
		if _, err := pbs.New(c); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
