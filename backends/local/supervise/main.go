package supervise

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
)

// stayArg tells the second of the two processes from the first.
const stayArg = "--stay"

// aliveFD is the inherited lock.
const aliveFD = 3

// Main runs `local-supervise JOBDIR` and gives the exit status. It starts the
// supervisor proper and returns; the supervisor, which is Main again, returns
// when the job has ended. Messages go to stderr, which is the job's
// supervise.log.
func Main(args []string, stderr io.Writer) int {
	fail := func(err error) int {
		_, _ = fmt.Fprintf(stderr, "%s %s: %v\n", time.Now().UTC().Format(time.RFC3339), Command, err)
		return 1
	}
	switch {
	case len(args) == 1:
		if err := detach(args[0]); err != nil {
			return fail(err)
		}
	case len(args) == 2 && args[0] == stayArg:
		if err := supervise(args[1], stderr); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("want one argument, the job's directory"))
	}
	return 0
}

func detach(jobDir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	alive, err := inheritedLock(jobDir)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, Command, stayArg, jobDir) //nolint:gosec // this very program
	cmd.Dir = "/"
	cmd.Env = os.Environ()
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{alive}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	return nil
}

// inheritedLock checks that the process was given the job's lock: without it a
// second supervisor could be started, and the program run twice.
func inheritedLock(jobDir string) (*os.File, error) {
	if !filepath.IsAbs(jobDir) {
		return nil, fmt.Errorf("job directory %q is not an absolute path", jobDir)
	}
	unix.CloseOnExec(aliveFD)
	var given, want unix.Stat_t
	if err := unix.Fstat(aliveFD, &given); err != nil {
		return nil, fmt.Errorf("no lock was handed over: %w", err)
	}
	if err := unix.Stat(filepath.Join(jobDir, "alive"), &want); err != nil {
		return nil, fmt.Errorf("find the lock: %w", err)
	}
	if given.Dev != want.Dev || given.Ino != want.Ino {
		return nil, fmt.Errorf("the lock handed over is not that of %s", jobDir)
	}
	// Success when this open file holds the lock already.
	if err := unix.Flock(aliveFD, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("the lock of %s is held by another supervisor: %w", jobDir, err)
	}
	return os.NewFile(aliveFD, "alive"), nil
}

// supervise runs the job to its end and then lets the queue move on.
func supervise(jobDir string, stderr io.Writer) error {
	// The program is to be killed when this process dies (Pdeathsig), which the
	// kernel ties to the thread that started it: it must stay.
	runtime.LockOSThread()
	alive, err := inheritedLock(jobDir)
	if err != nil {
		return err
	}
	defer func() { _ = alive.Close() }()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// What the program leaves behind becomes our child, so that nothing of the
	// job outlives it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	self, err := jobdir.Identify(os.Getpid())
	if err != nil {
		return fmt.Errorf("identify myself: %w", err)
	}
	if err := jobdir.SetSupervisor(jobDir, self); err != nil {
		return err
	}
	job, err := jobdir.Load(jobDir)
	if err != nil {
		return err
	}
	if job.Start == nil || job.End != nil || job.Launching {
		return fmt.Errorf("job %s is not to be started", job.ID)
	}
	end, err := run(&job, signals)
	if err != nil {
		// The lock goes with this process, and a pass will see to the job.
		return err
	}
	if err := jobdir.SetEnd(jobDir, end); err != nil {
		return err
	}
	return next(jobDir, stderr)
}

// next starts the jobs that waited for what this one held, also when no daemon runs.
func next(jobDir string, stderr io.Writer) error {
	// Supervisors started now are not ours to keep.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("let go of orphans: %w", err)
	}
	store := jobdir.Open(jobdir.Root(jobDir))
	cfg, err := store.Config()
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	unlock, err := store.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	q, err := Pass(store, cfg, time.Now())
	if err != nil {
		return fmt.Errorf("start the next jobs: %w", err)
	}
	for id, trouble := range q.Troubles {
		_, _ = fmt.Fprintf(stderr, "job %s: %v\n", id, trouble)
	}
	return nil
}

// verdict turns how the program ended, and why, into the job's end.
func verdict(status syscall.WaitStatus, cause backends.State, reason string, now time.Time) jobdir.End {
	end := jobdir.End{State: backends.StateCompleted, Reason: reason, Time: now}
	switch {
	case status.Signaled():
		end.Signal = int(status.Signal())
	default:
		end.ExitCode = status.ExitStatus()
	}
	switch {
	case cause != "":
		end.State = cause
	case end.ExitCode != 0 || end.Signal != 0:
		end.State, end.Reason = backends.StateFailed, ReasonNonZero
	}
	return end
}
