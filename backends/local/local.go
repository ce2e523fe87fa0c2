// Package local is a small batch system on this machine, for laptops and the
// first try, with the contract of a big one: jobs are held and released, start
// whole or wait, run as their user, and outlive the daemon.
//
// Hosts are pretended: a partition of two hosts with four GPUs each is this
// machine, under two names, and its devices 0 to 7. CPUs and memory are counted
// and not enforced. All state is in one directory (see package jobdir); every
// running job has a supervisor process of its own (see package supervise).
//
// A job finds in its environment ISTHMUS_LOCAL_JOB_ID, ISTHMUS_RESTART_COUNT=0
// and ISTHMUS_LOCAL_TASKS, a JSON list of {"rank", "host", "gpus": [device, ...]}
// ordered by rank.
package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
	"github.com/isthmus-hpc/isthmus/backends/local/queue"
	"github.com/isthmus-hpc/isthmus/backends/local/supervise"
)

// Partition is a number of equal pretended hosts, named <name>-1, <name>-2, ...
type Partition = jobdir.Partition

// MaxTasks is the largest gang: all places travel in one environment variable.
const MaxTasks = 2048

// Config describes the batch system.
type Config struct {
	// StateDir is an absolute path, made 0700 when missing. Daemons that share
	// it share the queue; each sees the jobs of its own owner.
	StateDir string
	// Partitions; the first is the default one.
	Partitions []Partition
	// Supervisor is the absolute path of a program that runs supervise.Main for
	// the arguments `local-supervise JOBDIR`.
	Supervisor string
	// Users that may run jobs. A daemon that is not root runs jobs of its own
	// user alone, whom Users need not name.
	Users []string
	// KeepEnded is how long ended jobs stay observable; 0 is 24 hours.
	KeepEnded time.Duration
}

// Backend is the local batch system. It holds nothing but the names of files:
// any number of them may work on one StateDir.
type Backend struct {
	cfg   Config
	queue jobdir.Config
	store *jobdir.Store
}

var _ backends.Backend = (*Backend)(nil)

// New checks cfg, makes the state directory and stores what supervisors need.
// It starts nothing: jobs found there go on as they are.
func New(cfg Config) (*Backend, error) {
	b := &Backend{cfg: cfg, queue: jobdir.Config{Partitions: cfg.Partitions, Supervisor: cfg.Supervisor}}
	b.cfg.KeepEnded = cmp.Or(cfg.KeepEnded, 24*time.Hour)
	if err := b.queue.Validate(); err != nil {
		return nil, fmt.Errorf("configure local batch system: %w", err)
	}
	if !filepath.IsAbs(cfg.Supervisor) {
		return nil, fmt.Errorf("configure local batch system: supervisor %q is not an absolute path", cfg.Supervisor)
	}
	if info, err := os.Stat(cfg.Supervisor); err != nil {
		return nil, fmt.Errorf("configure local batch system: supervisor: %w", err)
	} else if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return nil, fmt.Errorf("configure local batch system: supervisor %s is not an executable file", cfg.Supervisor)
	}
	store, err := jobdir.Make(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("configure local batch system: %w", err)
	}
	if err := store.SetConfig(b.queue); err != nil {
		return nil, fmt.Errorf("configure local batch system: %w", err)
	}
	b.store = store
	return b, nil
}

func failed(op string, kind backends.Kind, key backends.Key, err error) error {
	return &backends.Error{Op: op, Kind: kind, Key: key, Err: err}
}

// Submit is backends.Backend.
func (b *Backend) Submit(ctx context.Context, spec backends.JobSpec) (backends.JobID, error) {
	kind, err := b.check(&spec)
	if err != nil {
		return "", failed("submit", kind, spec.Key, err)
	}
	unlock, err := b.store.Lock(ctx)
	if err != nil {
		return "", failed("submit", backends.KindTransient, spec.Key, err)
	}
	defer unlock()
	id, err := b.store.Create(spec, time.Now())
	if err != nil {
		kind := backends.KindTransient
		if id != "" {
			kind = backends.KindUnknownOutcome
		}
		return "", failed("submit", kind, spec.Key, err)
	}
	return id, nil
}

// check refuses what can never run here, and fills in the partition's defaults.
func (b *Backend) check(spec *backends.JobSpec) (backends.Kind, error) {
	if err := spec.Validate(); err != nil {
		return backends.KindInvalid, fmt.Errorf("check the job: %w", err)
	}
	tasks := 0
	for _, c := range spec.Components {
		tasks += c.Tasks
	}
	if tasks > MaxTasks {
		return backends.KindInvalid, fmt.Errorf("components: %d tasks in all, more than %d", tasks, MaxTasks)
	}
	at := 0
	if spec.Partition != "" {
		at = slices.IndexFunc(b.cfg.Partitions, func(p Partition) bool { return p.Name == spec.Partition })
	}
	if at < 0 {
		return backends.KindInvalid, fmt.Errorf("partition: %q does not exist", spec.Partition)
	}
	p := b.cfg.Partitions[at]
	spec.Partition = p.Name
	spec.Walltime = cmp.Or(spec.Walltime, p.MaxWalltime)
	for _, f := range []struct{ field, value string }{
		{"constraint", spec.Constraint}, {"reservation", spec.Reservation}, {"qos", spec.QOS},
	} {
		if f.value != "" {
			return backends.KindInvalid, fmt.Errorf("%s: the local batch system has none, not %q", f.field, f.value)
		}
	}
	if len(spec.ExcludedHosts) > 0 {
		return backends.KindInvalid, fmt.Errorf("excludedHosts: the local batch system has this host only, and cannot leave out %q", spec.ExcludedHosts[0])
	}
	if len(spec.After) > 0 {
		return backends.KindInvalid, errors.New("after: the local batch system does not make jobs wait for others; submit it when they have ended")
	}
	if spec.Host != "" {
		return backends.KindInvalid, fmt.Errorf("host: the local batch system has this host only, and cannot choose %q", spec.Host)
	}
	if err := spec.Unserved(b.Capabilities()); err != nil {
		return backends.KindInvalid, err
	}
	if err := b.mayRunAs(spec.User); err != nil {
		return backends.KindDenied, err
	}
	return "", nil
}

// mayRunAs decides whether the daemon may run jobs as a user.
func (b *Backend) mayRunAs(name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("user %s has no account on this machine: %w", name, err)
	}
	return allowed(u, os.Geteuid(), b.cfg.Users)
}

// allowed decides whether a daemon that runs as euid may run jobs as u.
func allowed(u *user.User, euid int, users []string) error {
	uid, err := strconv.Atoi(u.Uid)
	switch {
	case err != nil:
		return fmt.Errorf("read uid of user %s: %w", u.Username, err)
	case uid == 0:
		return fmt.Errorf("user %s is root, and jobs never run as root", u.Username)
	case euid != 0 && uid != euid:
		return fmt.Errorf("the daemon runs as uid %d and not as root, so it cannot run a job as user %s (uid %d)", euid, u.Username, uid)
	case euid == 0 && !slices.Contains(users, u.Username):
		return fmt.Errorf("user %s is not one of the users that may run jobs: %v", u.Username, users)
	}
	return nil
}

// Release is backends.Backend. Releasing an id that names no job, or a job of
// another key or user, is an error of kind Invalid.
func (b *Backend) Release(ctx context.Context, ref backends.JobRef) error {
	unlock, err := b.store.Lock(ctx)
	if err != nil {
		return failed("release", backends.KindTransient, ref.Key, err)
	}
	defer unlock()
	j, ok, err := b.find(ref)
	switch {
	case err != nil:
		return failed("release", backends.KindTransient, ref.Key, err)
	case !ok:
		return failed("release", backends.KindInvalid, ref.Key, fmt.Errorf("job %s of user %s is unknown", ref.ID, ref.User))
	case j.End != nil || j.Released:
		return nil
	}
	if err := jobdir.SetReleased(j.Dir); err != nil {
		return failed("release", backends.KindTransient, ref.Key, err)
	}
	return b.pass("release", ref.Key)
}

// pass lets the queue move on after a change. What could not be started now is
// tried at every look and shown there.
func (b *Backend) pass(op string, key backends.Key) error {
	if _, err := supervise.Pass(b.store, b.queue, time.Now()); err != nil {
		return failed(op, backends.KindTransient, key, err)
	}
	return nil
}

// find gives the job that ref means, not merely the one with its number: the
// state directory may have been replaced.
func (b *Backend) find(ref backends.JobRef) (jobdir.Job, bool, error) {
	j, ok, err := b.store.Get(ref.ID)
	if ref.Key != "" && ref.Key != j.Spec.Key || ref.User != "" && ref.User != j.Spec.User {
		return jobdir.Job{}, false, err
	}
	return j, ok, err
}

// Cancel is backends.Backend.
func (b *Backend) Cancel(ctx context.Context, ref backends.JobRef) error {
	unlock, err := b.store.Lock(ctx)
	if err != nil {
		return failed("cancel", backends.KindTransient, ref.Key, err)
	}
	defer unlock()
	j, ok, err := b.find(ref)
	if err != nil {
		return failed("cancel", backends.KindTransient, ref.Key, err)
	}
	if !ok || j.End != nil {
		return nil
	}
	err = jobdir.SetCancelled(j.Dir)
	if err == nil && j.Start != nil {
		err = wake(j.Dir)
	}
	if err != nil {
		return failed("cancel", backends.KindTransient, ref.Key, err)
	}
	// The pass ends a job that holds nothing.
	return b.pass("cancel", ref.Key)
}

// wake makes the supervisor look at its job now rather than in a second.
func wake(dir string) error {
	p, ok, err := jobdir.Supervisor(dir)
	if err != nil || !ok {
		return err
	}
	return p.Signal(syscall.SIGUSR1)
}

// Observe is backends.Backend. It also lets the queue move on, and removes jobs
// of the owner that ended more than KeepEnded ago.
func (b *Backend) Observe(ctx context.Context, owner string, users []string) (backends.Observation, error) {
	unlock, err := b.store.Lock(ctx)
	if err != nil {
		return backends.Observation{}, failed("observe", backends.KindTransient, "", err)
	}
	defer unlock()
	now := time.Now()
	q, err := supervise.Pass(b.store, b.queue, now)
	if err != nil {
		return backends.Observation{}, failed("observe", backends.KindTransient, "", err)
	}
	if err := b.store.Sweep(); err != nil {
		return backends.Observation{}, failed("observe", backends.KindTransient, "", err)
	}
	got := backends.Observation{Complete: q.Complete}
	for i := range q.Jobs {
		j := &q.Jobs[i]
		if j.Spec.Owner != owner {
			continue
		}
		if j.End != nil && now.Sub(j.End.Time) > b.cfg.KeepEnded {
			if err := b.store.Remove(j.ID); err != nil {
				return backends.Observation{}, failed("observe", backends.KindTransient, j.Spec.Key, err)
			}
			continue
		}
		if len(users) == 0 || slices.Contains(users, j.Spec.User) {
			got.Jobs = append(got.Jobs, view(j, q))
		}
	}
	slices.SortFunc(got.Jobs, func(x, y backends.Job) int { return cmp.Compare(x.ID, y.ID) })
	return got, nil
}

func view(j *jobdir.Job, q supervise.Queue) backends.Job {
	v := backends.Job{
		ID: j.ID, Key: j.Spec.Key, Owner: j.Spec.Owner, User: j.Spec.User, Partition: j.Spec.Partition,
		State: backends.StatePending, Submitted: j.Submitted,
	}
	if j.Start != nil {
		v.Started, v.Hosts = j.Start.Time, j.Start.Hosts()
		slices.Sort(v.Hosts)
	}
	switch {
	case j.End != nil:
		v.State, v.Reason, v.Ended = j.End.State, j.End.Reason, j.End.Time
		v.ExitCode, v.Signal = j.End.ExitCode, j.End.Signal
	case j.Start != nil && j.Cancelled:
		v.State, v.Reason = backends.StateCompleting, supervise.ReasonCancelled
	case j.Start != nil && j.Launching:
		v.State = backends.StateRunning
	case j.Start != nil:
		// It has its hosts, but its program has not been started yet.
		v.Reason, v.Started, v.Hosts = "Starting", time.Time{}, nil
	default:
		w := q.Waits[j.ID]
		v.Reason, v.Never, v.Held = w.Reason, w.Never, w.Reason == queue.Held
	}
	if trouble := q.Troubles[j.ID]; trouble != nil {
		v.Reason = trouble.Error()
	}
	return v
}

// Inventory is backends.Backend.
func (b *Backend) Inventory(ctx context.Context) (backends.Inventory, error) {
	jobs, _, err := b.store.List()
	if err = errors.Join(ctx.Err(), err); err != nil {
		return backends.Inventory{}, failed("inventory", backends.KindTransient, "", err)
	}
	l := queue.NewLedger(b.queue)
	for i := range jobs {
		if jobs[i].Holds() {
			l.Take(jobs[i].Spec, *jobs[i].Start)
		}
	}
	return backends.Inventory{System: "local", Version: version(), Partitions: l.Partitions(), Hosts: l.Hosts()}, nil
}

// version is that of this program.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// Capabilities is backends.Backend.
func (b *Backend) Capabilities() backends.Capabilities {
	return backends.Capabilities{History: true, Heterogeneous: true, Enter: true}
}

var _ backends.Enterer = (*Backend)(nil)

// Enter is backends.Enterer: every host is this machine, so argv runs as it is.
func (b *Backend) Enter(ref backends.JobRef, host string, argv []string) (backends.Entry, error) {
	if len(argv) == 0 || argv[0] == "" {
		return backends.Entry{}, failed("enter", backends.KindInvalid, ref.Key, errors.New("no program given"))
	}
	if err := b.mayRunAs(ref.User); err != nil {
		return backends.Entry{}, failed("enter", backends.KindInvalid, ref.Key, err)
	}
	return backends.Entry{Argv: argv, User: ref.User}, nil
}
