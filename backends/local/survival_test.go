package local_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/local"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
	"github.com/isthmus-hpc/isthmus/backends/local/supervise"
)

// yard is a backend with what a test needs around it.
type yard struct {
	*local.Backend
	cfg  local.Config
	disk *backendtest.Disk
	user string
	n    int
}

func newYard(t *testing.T, mutate func(*local.Config)) *yard {
	t.Helper()
	name, uid, gid := jobUser(t)
	cfg := config(t)
	if mutate != nil {
		mutate(&cfg)
	}
	y := &yard{Backend: open(t, cfg), cfg: cfg, disk: backendtest.NewDisk(t, uid, gid), user: name}
	t.Cleanup(func() { y.clear(t) })
	return y
}

// clear ends all jobs and waits for their supervisors.
func (y *yard) clear(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	within(t, "the end of all jobs", func() bool {
		live := false
		for _, owner := range []string{"mine", "other"} {
			got, err := y.Observe(ctx, owner, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range got.Jobs {
				if !j.State.Terminal() {
					live = true
					if err := y.Cancel(ctx, backends.JobRef{ID: j.ID, Key: j.Key, User: j.User}); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return !live
	})
}

func within(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("%s did not come", what)
}

func (y *yard) spec(t *testing.T, tasks int, p backendtest.Program) backends.JobSpec {
	t.Helper()
	y.n++
	return backends.JobSpec{
		Key: backends.Key("k" + strconv.Itoa(y.n)), Owner: "mine", User: y.user, Partition: "main", Grace: time.Second,
		WorkDir:    y.disk.Place(t, "dir", p),
		Components: []backends.Component{{Tasks: tasks, CPUs: 1}},
	}
}

// script replaces the program of a work dir.
func script(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "podrun"), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
}

func (y *yard) start(t *testing.T, spec backends.JobSpec) backends.JobRef {
	t.Helper()
	id, err := y.Submit(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
	if err := y.Release(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	return ref
}

func (y *yard) look(t *testing.T, ref backends.JobRef) backends.Job {
	t.Helper()
	got, err := y.Observe(t.Context(), "mine", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range got.Jobs {
		if j.ID == ref.ID {
			return j
		}
	}
	t.Fatalf("job %s is not listed", ref.ID)
	return backends.Job{}
}

func (y *yard) until(t *testing.T, ref backends.JobRef, state backends.State) backends.Job {
	t.Helper()
	var j backends.Job
	within(t, fmt.Sprintf("state %s of job %s", state, ref.ID), func() bool {
		j = y.look(t, ref)
		if j.State.Terminal() && j.State != state {
			t.Fatalf("job %s ended as %s (%s), want %s", j.ID, j.State, j.Reason, state)
		}
		return j.State == state
	})
	return j
}

func (y *yard) starts(t *testing.T, dir string) int { t.Helper(); return y.disk.Trace(t, dir).Starts }

func (y *yard) jobDir(ref backends.JobRef) string {
	return filepath.Join(y.cfg.StateDir, "jobs", string(ref.ID))
}

// The queue belongs to the machine, not to the daemon: the next job starts when
// the one before ends, though nobody looks.
func TestQueueMovesWithoutDaemon(t *testing.T) {
	y := newYard(t, nil)
	var dirs []string
	for range 4 {
		spec := y.spec(t, 8, backendtest.Program{})
		script(t, spec.WorkDir, "echo start >> ./trace-start\nsleep 0.2\n")
		dirs = append(dirs, spec.WorkDir)
		y.start(t, spec)
	}
	within(t, "the last job's start", func() bool { return y.starts(t, dirs[3]) == 1 })
	for _, dir := range dirs {
		if n := y.starts(t, dir); n != 1 {
			t.Errorf("a job started %d times", n)
		}
	}
}

// daemonCommand is what TestMain runs as a daemon of its own.
const daemonCommand = "submit-release-and-wait"

// daemon submits and releases one job and then waits to be killed.
func daemon(stateDir, supervisor, user, dir string) error {
	b, err := local.New(local.Config{
		StateDir: stateDir, Supervisor: supervisor, Users: []string{user},
		Partitions: []local.Partition{{Name: "main", Hosts: 2, CPUs: 4, MemoryMiB: 1000}},
	})
	if err != nil {
		return err
	}
	ctx := context.Background()
	id, err := b.Submit(ctx, backends.JobSpec{
		Key: "daemon", Owner: "mine", User: user, WorkDir: dir, Grace: time.Second,
		Components: []backends.Component{{Tasks: 1, CPUs: 1}},
	})
	if err != nil {
		return err
	}
	if err := b.Release(ctx, backends.JobRef{ID: id, Key: "daemon", User: user}); err != nil {
		return err
	}
	fmt.Println(id)
	select {}
}

func TestJobSurvivesItsDaemon(t *testing.T) {
	y := newYard(t, nil)
	dir := y.disk.Place(t, "dir", backendtest.Program{UntilTerm: true})
	cmd := exec.Command(y.cfg.Supervisor, daemonCommand, y.cfg.StateDir, y.cfg.Supervisor, y.user, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the job's id: %v", err)
	}
	ref := backends.JobRef{ID: backends.JobID(strings.TrimSpace(line)), Key: "daemon", User: y.user}
	within(t, "the start", func() bool { return y.starts(t, dir) == 1 })
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the daemon ended by itself")
	}
	y.until(t, ref, backends.StateRunning)
	if err := y.Cancel(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	y.until(t, ref, backends.StateCancelled)
	if trace := y.disk.Trace(t, dir); trace.Starts != 1 || trace.Terms < 1 {
		t.Fatalf("the program's trace is %+v", trace)
	}
}

// A daemon that died between giving a job its hosts and starting it.
func TestHalfStartedJobStartsOnce(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{UntilTerm: true})
	id, err := y.Submit(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	ref := backends.JobRef{ID: id, Key: spec.Key, User: spec.User}
	dir := y.jobDir(ref)
	for _, err := range []error{
		jobdir.SetReleased(dir),
		jobdir.SetStart(dir, jobdir.Assignment{Tasks: []jobdir.Task{{Host: "main-2"}}, Time: time.Now()}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	j := y.until(t, ref, backends.StateRunning)
	if len(j.Hosts) != 1 || j.Hosts[0] != "main-2" {
		t.Errorf("it runs on %v, not where it was promised", j.Hosts)
	}
	within(t, "the start", func() bool { return y.starts(t, spec.WorkDir) > 0 })
	for range 5 {
		y.look(t, ref)
	}
	if n := y.starts(t, spec.WorkDir); n != 1 {
		t.Fatalf("it started %d times", n)
	}
}

// A supervisor that is killed takes its job with it: the job has ended, nothing
// of it is left, and it is not run again.
func TestKilledSupervisor(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 8, backendtest.Program{})
	// The grandchild is in a session of its own, as a pod's containers may be.
	script(t, spec.WorkDir, "setsid sh -c 'echo $$ > ./stray; exec sleep 600' &\necho start >> ./trace-start\nwhile :; do sleep 1; done\n")
	lost := y.start(t, spec)
	var stray int
	within(t, "the stray's number", func() bool {
		text, err := os.ReadFile(filepath.Join(spec.WorkDir, "stray"))
		if err != nil {
			return false
		}
		stray, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err == nil && y.starts(t, spec.WorkDir) == 1
	})
	strayIs, err := jobdir.Identify(stray)
	if err != nil {
		t.Fatal(err)
	}
	within(t, "the supervisor's note of its program", func() bool {
		_, ok, err := jobdir.Program(y.jobDir(lost))
		return err == nil && ok
	})
	next := y.spec(t, 8, backendtest.Program{})
	after := y.start(t, next)

	supervisor, ok, err := jobdir.Supervisor(y.jobDir(lost))
	if err != nil || !ok {
		t.Fatalf("find the supervisor: %v", err)
	}
	if err := supervisor.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	j := y.until(t, lost, backends.StateNodeFail)
	if j.Reason != "SupervisorDied" || j.Ended.IsZero() {
		t.Errorf("it ended with reason %q at %v", j.Reason, j.Ended)
	}
	if strayIs.Lives() {
		t.Error("a process of the job is still there")
	}
	y.until(t, after, backends.StateCompleted)
	if n := y.starts(t, spec.WorkDir); n != 1 {
		t.Errorf("the lost job started %d times", n)
	}
}

// What a job leaves behind goes when it ends.
func TestOrphansGoWithTheJob(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{})
	script(t, spec.WorkDir, "setsid env -i sh -c 'trap \"\" TERM HUP; echo $$ > ./stray; sleep 600; sleep 600' &\nwhile [ ! -s ./stray ]; do sleep 0.05; done\nexit 5\n")
	ref := y.start(t, spec)
	if j := y.until(t, ref, backends.StateFailed); j.ExitCode != 5 {
		t.Errorf("exit code %d, want 5", j.ExitCode)
	}
	text, err := os.ReadFile(filepath.Join(spec.WorkDir, "stray"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(text))); err == nil {
		t.Error("the orphan is still there after the job's end")
	}
}

// takeLock holds the queue's lock as another process would.
func takeLock(t *testing.T, stateDir string) (unlock func()) {
	t.Helper()
	f, err := jobdir.TryLock(filepath.Join(stateDir, "lock"))
	if err != nil || f == nil {
		t.Fatalf("take the lock: %v", err)
	}
	return func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever starts a supervisor by hand, or twice, starts no second program.
func TestSecondSupervisorIsRefused(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{UntilTerm: true})
	ref := y.start(t, spec)
	within(t, "the start", func() bool { return y.starts(t, spec.WorkDir) == 1 })
	alive, err := os.OpenFile(filepath.Join(y.jobDir(ref), "alive"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alive.Close() }()
	for name, files := range map[string][]*os.File{"no lock": nil, "a lock that another holds": {alive}, "another file": {os.Stdin}} {
		for _, args := range [][]string{{supervise.Command, y.jobDir(ref)}, {supervise.Command, "--stay", y.jobDir(ref)}, {supervise.Command}} {
			cmd := exec.CommandContext(t.Context(), y.cfg.Supervisor, args...)
			cmd.ExtraFiles = files
			out, err := cmd.CombinedOutput()
			if err == nil || len(out) == 0 {
				t.Errorf("%s, %d arguments: ended with %v and said %q, want a failure and a reason", name, len(args), err, out)
			}
		}
	}
	y.until(t, ref, backends.StateRunning)
	if n := y.starts(t, spec.WorkDir); n != 1 {
		t.Fatalf("the program started %d times", n)
	}
}

// Supervisors are killed at any moment of their life: no job runs twice, none
// is lost, and the queue goes on.
func TestKilledSupervisorsAtAnyMoment(t *testing.T) {
	y := newYard(t, nil)
	const jobs = 12
	var refs []backends.JobRef
	var dirs []string
	for i := range jobs {
		spec := y.spec(t, 1, backendtest.Program{})
		script(t, spec.WorkDir, "echo start >> ./trace-start\nsleep 0.3\n")
		ref := y.start(t, spec)
		refs, dirs = append(refs, ref), append(dirs, spec.WorkDir)
		if i%3 == 2 {
			continue // this one is spared
		}
		var supervisor jobdir.Process
		within(t, "the supervisor's name", func() (ok bool) {
			y.look(t, ref) // the queue may have been full
			var err error
			if supervisor, ok, err = jobdir.Supervisor(y.jobDir(ref)); err != nil {
				t.Fatal(err)
			}
			return ok
		})
		// Each is hit a little later in its life: before, while and after it
		// starts its program.
		<-time.After(time.Duration(i) * 2 * time.Millisecond)
		if err := supervisor.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	lost := 0
	for i, ref := range refs {
		var j backends.Job
		within(t, "the end of job "+string(ref.ID), func() bool {
			j = y.look(t, ref)
			return j.State.Terminal()
		})
		switch n := y.starts(t, dirs[i]); {
		case j.State == backends.StateCompleted && n == 1:
		case j.State == backends.StateNodeFail && n <= 1 && i%3 != 2:
			lost++
		default:
			t.Errorf("job %s ended as %s (%s) after %d starts", ref.ID, j.State, j.Reason, n)
		}
	}
	if lost == 0 {
		t.Error("no supervisor was hit: the test proves nothing")
	}
	t.Logf("%d of %d jobs lost their supervisor", lost, jobs)
}
