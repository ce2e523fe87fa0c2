package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
)

// Variables in the environment of a job.
const (
	tokenVariable = "ISTHMUS_LOCAL_TOKEN"
	tasksVariable = "ISTHMUS_LOCAL_TASKS"
)

const (
	// lookInterval is how often a supervisor looks for a cancellation whose
	// signal it did not get.
	lookInterval = time.Second
	// sweepLimit is how long a supervisor goes on killing what its job left.
	sweepLimit = 30 * time.Second
)

// run starts the job's program, unless it was cancelled, and stays until it and
// all it started are gone.
func run(job *jobdir.Job, signals <-chan os.Signal) (jobdir.End, error) {
	// The supervisor's name was noted before this look: a cancellation that this
	// look misses finds the supervisor, and signals it.
	cancelled, err := jobdir.IsCancelled(job.Dir)
	if err != nil {
		return jobdir.End{}, err
	}
	if cancelled {
		return jobdir.End{State: backends.StateCancelled, Reason: ReasonCancelled, Time: time.Now()}, nil
	}
	if err := jobdir.SetLaunching(job.Dir); err != nil {
		return jobdir.End{}, err
	}
	pid, err := launch(job)
	if err != nil {
		return jobdir.End{State: backends.StateFailed, ExitCode: 1, Reason: ReasonLaunchFail + ": " + err.Error(), Time: time.Now()}, nil
	}
	exited := make(chan syscall.WaitStatus, 1)
	go func() { exited <- reapUntil(pid) }()
	if program, err := jobdir.Identify(pid); err == nil {
		// Only for the pass that buries the job, should this process be killed.
		err = jobdir.SetProgram(job.Dir, program)
		if err != nil {
			fmt.Fprintf(os.Stderr, "note the program: %v\n", err)
		}
	}
	w := watch{job: job, pid: pid}
	status := w.until(exited, signals)
	sweepChildren()
	return verdict(status, w.cause, w.reason, time.Now()), nil
}

// watch follows one running program.
type watch struct {
	job    *jobdir.Job
	pid    int
	cause  backends.State // why it is being ended; "" while it is not
	reason string
	kill   <-chan time.Time
}

func (w *watch) until(exited <-chan syscall.WaitStatus, signals <-chan os.Signal) syscall.WaitStatus {
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	var limit <-chan time.Time
	if w.job.Spec.Walltime > 0 {
		timer := time.NewTimer(w.job.Spec.Walltime)
		defer timer.Stop()
		limit = timer.C
	}
	for {
		select {
		case status := <-exited:
			return status
		case s := <-signals:
			switch s {
			case syscall.SIGUSR1:
				w.lookForCancel()
			case syscall.SIGTERM:
				// This machine goes down.
				w.terminate(backends.StateNodeFail, ReasonShutdown)
			}
		case <-look.C:
			w.lookForCancel()
		case <-limit:
			w.terminate(backends.StateTimeout, ReasonTimeLimit)
		case <-w.kill:
			w.signal(syscall.SIGKILL)
		}
	}
}

func (w *watch) lookForCancel() {
	if yes, err := jobdir.IsCancelled(w.job.Dir); err == nil && yes {
		w.terminate(backends.StateCancelled, ReasonCancelled)
	}
}

// terminate begins the end once; the first cause counts.
func (w *watch) terminate(cause backends.State, reason string) {
	if w.cause != "" {
		return
	}
	w.cause, w.reason = cause, reason
	w.signal(syscall.SIGTERM)
	// A program that was stopped cannot heed the signal.
	w.signal(syscall.SIGCONT)
	w.kill = time.After(w.job.Spec.Grace)
}

// signal reaches the program's process group.
func (w *watch) signal(sig syscall.Signal) {
	if err := syscall.Kill(-w.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		fmt.Fprintf(os.Stderr, "send %s to group %d: %v\n", sig, w.pid, err)
	}
}

// launch starts the batch script as the job's user and gives its process.
func launch(job *jobdir.Job) (pid int, err error) {
	u, err := user.Lookup(job.Spec.User)
	if err != nil {
		return 0, fmt.Errorf("find user: %w", err)
	}
	rights, err := rightsOf(u)
	if err != nil {
		return 0, err
	}
	env, err := environment(job, u)
	if err != nil {
		return 0, err
	}
	// The shell opens the script through its own descriptor, since the user may
	// not enter this directory.
	path := filepath.Join(job.Dir, "launch.sh")
	if err := os.WriteFile(path, []byte(backends.LaunchScript), 0o644); err != nil { //nolint:gosec // a constant, for all to read
		return 0, fmt.Errorf("write the batch script: %w", err)
	}
	script, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open the batch script: %w", err)
	}
	defer func() { _ = script.Close() }()
	out, err := openLog(rights, filepath.Join(job.Spec.WorkDir, "batch.log"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = out.Close() }()
	unix.Umask(0o022)
	cmd := exec.Cmd{
		Path: "/bin/sh", Args: []string{"/bin/sh", "/proc/self/fd/3"},
		Dir: job.Spec.WorkDir, Env: env, Stdout: out, Stderr: out, ExtraFiles: []*os.File{script},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Credential: rights, Pdeathsig: syscall.SIGKILL},
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the batch script: %w", err)
	}
	return cmd.Process.Pid, nil
}

func environment(job *jobdir.Job, u *user.User) ([]string, error) {
	type task struct {
		Rank int    `json:"rank"`
		Host string `json:"host"`
		GPUs []int  `json:"gpus"`
	}
	tasks := make([]task, 0, len(job.Start.Tasks))
	for rank, t := range job.Start.Tasks {
		gpus := t.GPUs
		if gpus == nil {
			gpus = []int{}
		}
		tasks = append(tasks, task{Rank: rank, Host: t.Host, GPUs: gpus})
	}
	text, err := json.Marshal(tasks)
	if err != nil {
		return nil, fmt.Errorf("encode the tasks: %w", err)
	}
	return []string{
		"PATH=" + searchPath, "LC_ALL=C", "SHELL=/bin/sh",
		"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username,
		"ISTHMUS_LOCAL_JOB_ID=" + string(job.ID), "ISTHMUS_RESTART_COUNT=0",
		tasksVariable + "=" + string(text), tokenVariable + "=" + job.Token,
	}, nil
}

// rightsOf gives the rights to take on, nil when they are this process's own.
// Whatever its name, uid 0 runs no jobs.
func rightsOf(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read uid of %s: %w", u.Username, err)
	}
	if uid == 0 {
		return nil, fmt.Errorf("user %s is root", u.Username)
	}
	if os.Geteuid() != 0 {
		if int(uid) != os.Geteuid() {
			return nil, fmt.Errorf("only root can run a job as %s", u.Username)
		}
		return nil, nil
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("read gid of %s: %w", u.Username, err)
	}
	names, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("find groups of %s: %w", u.Username, err)
	}
	rights := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, name := range names {
		id, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read groups of %s: %w", u.Username, err)
		}
		rights.Groups = append(rights.Groups, uint32(id))
	}
	return rights, nil
}
