package slurm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

var noProgram = backendtest.Program{}

func background() context.Context { return context.Background() }

var oneTask = backends.Component{Tasks: 1, CPUs: 1, MemoryMiB: 10}

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	spec := s.spec("slow", "trap 'echo got TERM' TERM; while :; do sleep 1 & wait $!; done", oneTask)
	spec.Walltime = 20 * time.Second // Slurm counts minutes
	ref := s.start(spec)
	j := s.until(ref, "ended by its limit", 3*time.Minute, func(j backends.Job) bool { return j.State == backends.StateTimeout })
	if ran := j.Ended.Sub(j.Started); ran < time.Minute {
		t.Errorf("ended after %v", ran)
	}
	if text, err := os.ReadFile(filepath.Join(spec.WorkDir, "batch.log")); err != nil || !strings.Contains(string(text), "got TERM") {
		t.Errorf("no terminate signal before the kill: %s, %v", text, err)
	}
}

func TestRequeue(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	s := newSite(t)
	ref := s.start(s.spec("slow", "exec sleep 1000", oneTask))
	s.state(ref, backends.StateRunning)
	if _, err := c.Run(t.Context(), "scontrol", "requeue", string(ref.ID)); err != nil {
		t.Fatal(err)
	}
	j := s.state(ref, backends.StatePending)
	if j.Restarts != 1 || j.Held || j.Never || !j.Started.IsZero() || !j.Ended.IsZero() {
		t.Errorf("after a requeue: %+v", j)
	}
	// An administrator may requeue it held; it waits for a release then.
	if _, err := c.Run(t.Context(), "scontrol", "hold", string(ref.ID)); err != nil {
		t.Fatal(err)
	}
	j = s.until(ref, "held", time.Minute, func(j backends.Job) bool { return j.Held })
	if j.State != backends.StatePending || j.Reason != "JobHeldAdmin" {
		t.Errorf("held by an administrator: %+v", j)
	}
	// What an administrator holds, its user may not release.
	if kind := backends.KindOf(s.Release(t.Context(), ref)); kind != backends.KindDenied {
		t.Errorf("release of it: %s, want Denied", kind)
	}
}

func TestJobsThatNeverFit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for what, change := range map[string]func(*backends.JobSpec){
		"a GPU type that no host has": func(j *backends.JobSpec) { j.Components[0].GPUs = map[string]int64{"h100": 1} },
		"more GPUs than a host has":   func(j *backends.JobSpec) { j.Components[0].GPUs = map[string]int64{"a100": 9} },
		"a longer time than allowed":  func(j *backends.JobSpec) { j.Walltime = 72 * time.Hour },
		"more memory than a host has": func(j *backends.JobSpec) { j.Components[0].MemoryMiB = 600000 },
	} {
		spec := s.spec("gpu", "exit 0", oneTask)
		change(&spec)
		id, err := s.Submit(t.Context(), spec)
		if err != nil {
			if kind := backends.KindOf(err); kind != backends.KindInvalid {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
		if err := s.Release(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		j := s.until(ref, "known never to run", time.Minute, func(j backends.Job) bool { return j.Never })
		if j.Held || j.State != backends.StatePending {
			t.Errorf("%s: %+v", what, j)
		}
		if err := s.Cancel(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	spec := s.spec("gpu", "exit 0", oneTask)
	spec.Constraint = "nvlink&no_such_feature"
	if _, err := s.Submit(t.Context(), spec); backends.KindOf(err) != backends.KindInvalid {
		t.Errorf("an unknown feature: %v", err)
	}
	spec.Constraint = "nvlink&ib"
	s.state(s.start(spec), backends.StateCompleted)
}

func TestOthersJobs(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	s := newSite(t)
	ref := s.submit(s.spec("slow", "exit 0", oneTask))
	theirs := ref
	theirs.User = account.Bob
	if err := s.Cancel(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("cancel of another user's job: %v, want Denied", err)
	}
	if err := s.Release(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("release of another user's job: %v, want Denied", err)
	}

	// A user's own jobs may be called anything; they neither hide ours nor pass for ours.
	for _, comment := range []string{
		"two\nlines", "\x1f\x1f\x1f", "isthmus/" + s.owner + "/k1\n99\x1fisthmus", "isthmus/" + s.owner + "/", "isthmus/" + s.owner + "/NOT A KEY",
		"isthmus/other/k1", "\xff\xfe", strings.Repeat("x", 1000), "99,99,'\"$(id)`id`",
	} {
		res, err := local.New().Run(t.Context(), transport.Command{
			User: account.Alice, Env: c.Env(),
			Argv: []string{"sbatch", "--hold", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--partition=slow",
				"--job-name=" + comment, "--comment=" + comment, "--wrap=exit 0"},
		})
		if err != nil || res.Exit != 0 {
			t.Fatalf("sbatch with comment %q: %v %s", comment, err, res.Stderr)
		}
		id := strings.TrimSpace(string(res.Stdout))
		t.Cleanup(func() {
			if _, err := c.Run(background(), "scancel", id); err != nil {
				t.Error(err)
			}
		})
	}
	o, err := s.Observe(t.Context(), s.owner, s.users)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Jobs) != 1 || o.Jobs[0].ID != ref.ID || !o.Complete {
		t.Errorf("observed %+v", o)
	}
	// Without users every user's jobs are looked at.
	if o, err = s.Observe(t.Context(), s.owner, nil); err != nil || len(o.Jobs) != 1 || !o.Complete {
		t.Errorf("without users: %+v, %v", o, err)
	}
	// A user that this host does not know (any more) may still own jobs.
	if o, err = s.Observe(t.Context(), s.owner, []string{account.Alice, "isthmus-nobody-here"}); err != nil || len(o.Jobs) != 1 || o.Complete {
		t.Errorf("with an unknown user: %+v, %v", o, err)
	}
}

func TestInventoryOfRealHosts(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	s := newSite(t)
	ref := s.start(s.spec("gpuspare", "exec sleep 1000",
		backends.Component{Tasks: 2, CPUs: 4, MemoryMiB: 1001, GPUs: map[string]int64{"a100": 3}}))
	s.state(ref, backends.StateRunning)
	gpu3 := func() (backends.Inventory, backends.Host) {
		t.Helper()
		inv, err := s.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(inv.Hosts, func(h backends.Host) bool { return h.Name == "gpu3" })
		if i < 0 {
			t.Fatalf("gpu3 is missing in %+v", inv.Hosts)
		}
		return inv, inv.Hosts[i]
	}
	inv, h := gpu3()
	if !h.Usable || h.CPUs != 64 || h.MemoryMiB != 500000 || h.GPUs["a100"] != 8 || len(h.GPUs) != 1 || h.Addr != c.Address("gpu3") ||
		!slices.Equal(h.Features, []string{"nvlink", "ib"}) {
		t.Errorf("host %+v", h)
	}
	// 1001 MiB over 4 CPUs is 251 MiB a CPU.
	if h.Allocated.CPUs != 8 || h.Allocated.MemoryMiB != 2*4*251 || h.Allocated.GPUs["a100"] != 6 {
		t.Errorf("allocated %+v", h.Allocated)
	}
	for _, p := range inv.Partitions {
		switch p.Name {
		case "gpu":
			if p.MaxWalltime != 48*time.Hour || p.Default || !p.Up || !slices.Equal(p.Hosts, []string{"gpu1", "gpu2"}) {
				t.Errorf("partition %+v", p)
			}
		case "gpuspare":
			if p.MaxWalltime != 0 || p.DefaultWalltime != 30*time.Minute {
				t.Errorf("partition %+v", p)
			}
		}
	}
	if _, err := c.Run(t.Context(), "scontrol", "update", "nodename=gpu3", "state=drain", "reason=State=IDLE Gres=gpu:h100:99 fan broken"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.Run(background(), "scontrol", "update", "nodename=gpu3", "state=resume"); err != nil {
			t.Error(err)
		}
	})
	if _, h = gpu3(); h.Usable || !strings.Contains(h.Why, "drained") || h.GPUs["a100"] != 8 || len(h.GPUs) != 1 {
		t.Errorf("a drained host: %+v", h)
	}
}

func TestControllerOutage(t *testing.T) {
	t.Parallel()
	realCluster(t) // the same reasons to skip, and the accounts
	c, err := testbed.Start(t.Context(), testbed.Config{
		Name: "outage", Hosts: []testbed.Hosts{{Prefix: "n", Count: 1, CPUs: 4, MemoryMiB: 4000}},
		Extra: []string{"MessageTimeout=5"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(background()); err != nil {
			t.Error(err)
		}
	})
	b, _ := newReal(t, c)
	s := siteOn(t, b)
	held := s.submit(s.spec("a", "exit 0", oneTask))
	running := s.start(s.spec("a", "sleep 3; exit 5", oneTask))
	s.state(running, backends.StateRunning)
	if err := c.StopController(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	kinds := map[string]error{}
	_, kinds["submit"] = b.Submit(ctx, s.spec("a", "exit 0", oneTask))
	_, kinds["observe"] = b.Observe(ctx, s.owner, s.users)
	_, kinds["inventory"] = b.Inventory(ctx)
	kinds["release"] = b.Release(ctx, held)
	kinds["cancel"] = b.Cancel(ctx, held)
	for op, err := range kinds {
		want := backends.KindUnknownOutcome
		if op == "observe" || op == "inventory" {
			want = backends.KindTransient
		}
		var e *backends.Error
		if !errors.As(err, &e) || e.Kind != want || e.Op != op {
			t.Errorf("%s without a controller: %v, want %s", op, err, want)
		}
	}
	if err := c.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j := s.state(running, backends.StateFailed); j.ExitCode != 5 {
		t.Errorf("the job that ended meanwhile: %+v", j)
	}
	o, err := s.Observe(t.Context(), s.owner, s.users)
	if err != nil || len(o.Jobs) != 2 {
		t.Errorf("after the outage: %+v, %v", o.Jobs, err)
	}
	if j := s.state(held, backends.StatePending); !j.Held {
		t.Errorf("the held job reads %+v", j)
	}
}
