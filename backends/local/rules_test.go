package local_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/local"
)

func TestEnvironmentOfAJob(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{})
	spec.Components = []backends.Component{{Tasks: 2, CPUs: 1, GPUs: map[string]int64{"a100": 2}}, {Tasks: 1, CPUs: 1}}
	script(t, spec.WorkDir, "env -0 > ./env; id -u > ./uid; id -G > ./groups; pwd > ./pwd; umask > ./umask\n")
	ref := y.start(t, spec)
	j := y.until(t, ref, backends.StateCompleted)
	if len(j.Hosts) != 2 {
		t.Errorf("hosts %v, want both", j.Hosts)
	}
	env := map[string]string{}
	for _, entry := range strings.Split(read(t, spec.WorkDir, "env"), "\x00") {
		name, value, _ := strings.Cut(entry, "=")
		env[name] = value
	}
	var tasks []struct {
		Rank int
		Host string
		GPUs []int
	}
	if err := json.Unmarshal([]byte(env["ISTHMUS_LOCAL_TASKS"]), &tasks); err != nil {
		t.Fatalf("decode ISTHMUS_LOCAL_TASKS: %v", err)
	}
	if len(tasks) != 3 || tasks[0].Host != "main-1" || tasks[1].Host != "main-2" || len(tasks[2].GPUs) != 0 {
		t.Errorf("tasks %+v", tasks)
	}
	if got := slices.Concat(tasks[0].GPUs, tasks[1].GPUs); len(got) != 4 || got[0] != 0 || got[3] != 3 {
		t.Errorf("devices %v, want 0 to 3: the hosts are one machine", got)
	}
	if env["ISTHMUS_LOCAL_JOB_ID"] != string(ref.ID) || env["ISTHMUS_RESTART_COUNT"] != "0" || env["USER"] != y.user {
		t.Errorf("environment %v", env)
	}
	if _, leaked := env["GOCACHE"]; leaked {
		t.Error("the daemon's environment reached the job")
	}
	_, uid, _ := jobUser(t)
	if got := strings.TrimSpace(read(t, spec.WorkDir, "uid")); got != strconv.Itoa(uid) {
		t.Errorf("it ran as uid %s, want %d", got, uid)
	}
	for _, gid := range strings.Fields(read(t, spec.WorkDir, "groups")) {
		if gid == "0" && uid != os.Getuid() {
			t.Error("it ran with root's group")
		}
	}
	if got := strings.TrimSuffix(read(t, spec.WorkDir, "pwd"), "\n"); got != spec.WorkDir {
		t.Errorf("it ran in %q, want %q", got, spec.WorkDir)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDenied(t *testing.T) {
	y := newYard(t, nil)
	for name, user := range map[string]string{
		"no such account": "no-such-user-here",
		"not in the list": "daemon",
	} {
		t.Run(name, func(t *testing.T) {
			spec := y.spec(t, 1, backendtest.Program{})
			spec.User = user
			_, err := y.Submit(t.Context(), spec)
			if backends.KindOf(err) != backends.KindDenied || !strings.Contains(err.Error(), user) {
				t.Fatalf("submit as %s: %v, want an error of kind Denied that names the user", user, err)
			}
		})
	}
}

func TestWhatThisSystemLacksIsInvalid(t *testing.T) {
	y := newYard(t, nil)
	for name, mutate := range map[string]func(*backends.JobSpec){
		"constraint":  func(s *backends.JobSpec) { s.Constraint = "a100" },
		"reservation": func(s *backends.JobSpec) { s.Reservation = "class" },
		"qos":         func(s *backends.JobSpec) { s.QOS = "high" },
		"components":  func(s *backends.JobSpec) { s.Components[0].Tasks = local.MaxTasks + 1 },
	} {
		spec := y.spec(t, 1, backendtest.Program{})
		mutate(&spec)
		_, err := y.Submit(t.Context(), spec)
		if backends.KindOf(err) != backends.KindInvalid || !strings.Contains(err.Error(), name+":") {
			t.Errorf("%s: %v, want an error of kind Invalid that names the field", name, err)
		}
	}
}

// A link that a user puts in place of the output file leads root nowhere.
func TestOutputIsOpenedAsTheUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has rights that its users lack")
	}
	y := newYard(t, nil)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, place := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"hard link":     func(path string) error { return os.Link(secret, path) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o777) },
	} {
		spec := y.spec(t, 1, backendtest.Program{Output: "hello"})
		err := place(filepath.Join(spec.WorkDir, "batch.log"))
		if err != nil && name != "hard link" { // the two may be on different file systems
			t.Fatal(err)
		}
		if err != nil {
			continue
		}
		j := y.until(t, y.start(t, spec), backends.StateFailed)
		if !strings.HasPrefix(j.Reason, "LaunchFailed: ") {
			t.Errorf("%s: reason %q", name, j.Reason)
		}
		if n := y.starts(t, spec.WorkDir); n != 0 {
			t.Errorf("%s: the program started", name)
		}
	}
	if got, err := os.ReadFile(secret); err != nil || string(got) != "untouched" {
		t.Errorf("the file behind the links holds %q (%v)", got, err)
	}
}

// A number alone never addresses a job: the state directory may be another one.
func TestForeignReferences(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{UntilTerm: true})
	ref := y.start(t, spec)
	for _, wrong := range []backends.JobRef{
		{ID: ref.ID, Key: "another", User: ref.User},
		{ID: ref.ID, Key: ref.Key, User: "daemon"},
		{ID: "../jobs/" + ref.ID, Key: ref.Key, User: ref.User},
		{ID: "0" + ref.ID, Key: ref.Key, User: ref.User},
		{ID: "", Key: ref.Key, User: ref.User},
	} {
		if err := y.Cancel(t.Context(), wrong); err != nil {
			t.Errorf("cancel %+v: %v, want success", wrong, err)
		}
		if err := y.Release(t.Context(), wrong); backends.KindOf(err) != backends.KindInvalid {
			t.Errorf("release %+v: %v, want an error of kind Invalid", wrong, err)
		}
	}
	y.until(t, ref, backends.StateRunning)
}

func TestEndedJobsAreRemovedByTheirOwnerAlone(t *testing.T) {
	y := newYard(t, nil)
	spec := y.spec(t, 1, backendtest.Program{})
	ref := y.start(t, spec)
	y.until(t, ref, backends.StateCompleted)

	cfg := y.cfg
	cfg.KeepEnded = time.Nanosecond
	brief := open(t, cfg)
	list := func(b *local.Backend, owner string) int {
		t.Helper()
		got, err := b.Observe(t.Context(), owner, nil)
		if err != nil || !got.Complete {
			t.Fatalf("observe: %v, complete %t", err, got.Complete)
		}
		return len(got.Jobs)
	}
	list(brief, "other")
	if list(y.Backend, "mine") != 1 {
		t.Fatal("another owner's look removed the job")
	}
	if list(brief, "mine") != 0 || list(y.Backend, "mine") != 0 {
		t.Fatal("the ended job is still listed")
	}
	if _, err := os.Stat(y.jobDir(ref)); !os.IsNotExist(err) {
		t.Fatalf("its directory is still there: %v", err)
	}
	// Its number is not given again.
	id, err := y.Submit(t.Context(), y.spec(t, 1, backendtest.Program{}))
	if err != nil || id == ref.ID {
		t.Fatalf("the next job is %s (%v)", id, err)
	}
}

// Absence proves nothing while a job's files cannot be read.
func TestDamagedJobMakesTheListIncomplete(t *testing.T) {
	y := newYard(t, nil)
	bad, err := y.Submit(t.Context(), y.spec(t, 1, backendtest.Program{}))
	if err != nil {
		t.Fatal(err)
	}
	good := y.start(t, y.spec(t, 1, backendtest.Program{}))
	path := filepath.Join(y.cfg.StateDir, "jobs", string(bad), "spec.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	y.until(t, good, backends.StateCompleted)
	got, err := y.Observe(t.Context(), "mine", nil)
	if err != nil || got.Complete || len(got.Jobs) != 1 {
		t.Fatalf("observed %+v (%v), want one job and an incomplete list", got, err)
	}
	// What a crash in the middle of submit or removal left is swept away.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(y.cfg.StateDir, "jobs", ".new-99")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err = y.Observe(t.Context(), "mine", nil); err != nil || !got.Complete {
		t.Fatalf("observed %+v (%v), want a complete list", got, err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Error("a half-made job is still there")
	}
}

func TestSupervisorThatCannotStartIsShown(t *testing.T) {
	y := newYard(t, func(c *local.Config) { c.Supervisor = "/bin/false" })
	ref := y.start(t, y.spec(t, 1, backendtest.Program{}))
	j := y.look(t, ref)
	if j.State != backends.StatePending || !strings.Contains(j.Reason, "/bin/false") {
		t.Fatalf("the job reads %s, %q; want Pending and a reason that names the program", j.State, j.Reason)
	}
	// With a program that works it starts after all.
	cfg := y.cfg
	cfg.Supervisor = config(t).Supervisor
	y.Backend = open(t, cfg)
	y.until(t, ref, backends.StateCompleted)
}

func TestConfigurationMistakes(t *testing.T) {
	for name, mutate := range map[string]func(*local.Config){
		"state directory": func(c *local.Config) { c.StateDir = "here" },
		"supervisor":      func(c *local.Config) { c.Supervisor = "podrun" },
		"partitions":      func(c *local.Config) { c.Partitions = nil },
		"hosts":           func(c *local.Config) { c.Partitions[0].Hosts = 0 },
		"cpus":            func(c *local.Config) { c.Partitions[0].CPUs = 0 },
		"name":            func(c *local.Config) { c.Partitions[0].Name = "../x" },
		"twice":           func(c *local.Config) { c.Partitions = append(c.Partitions, c.Partitions[0]) },
	} {
		cfg := config(t)
		mutate(&cfg)
		if _, err := local.New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
}

// A daemon that waits for another's lock gives up with its context, and has done nothing.
func TestLockIsSharedAndHonoursTheContext(t *testing.T) {
	y := newYard(t, nil)
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	unlock := takeLock(t, y.cfg.StateDir)
	_, err := open(t, y.cfg).Submit(ctx, y.spec(t, 1, backendtest.Program{}))
	unlock()
	if backends.KindOf(err) != backends.KindTransient {
		t.Fatalf("submit while another holds the lock: %v, want an error of kind Transient", err)
	}
	got, err := y.Observe(t.Context(), "mine", nil)
	if err != nil || len(got.Jobs) != 0 {
		t.Fatalf("observed %+v (%v), want no job", got, err)
	}
}
