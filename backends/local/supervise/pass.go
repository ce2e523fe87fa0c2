// Package supervise starts the jobs of the local batch system and stays with
// each of them until it has ended: one supervisor process a job, which outlives
// the daemon that started it. Main is that process; Pass is the scheduling pass
// that daemons and supervisors share.
//
// A supervisor holds the lock of its job's "alive" file. The file is opened and
// locked by whoever starts the supervisor and inherited by it, so that from
// before its start until its death nobody else believes the job is unattended.
package supervise

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
	"github.com/isthmus-hpc/isthmus/backends/local/queue"
)

// Command is the hidden subcommand that runs Main: `<supervisor> local-supervise JOBDIR`.
const Command = "local-supervise"

// Reasons in End.Reason.
const (
	ReasonCancelled  = "Cancelled"
	ReasonTimeLimit  = "TimeLimit"
	ReasonLost       = "SupervisorDied" // the job's processes were killed
	ReasonShutdown   = "Shutdown"
	ReasonLaunchFail = "LaunchFailed"
	ReasonNonZero    = "NonZeroExitCode"
)

// Queue is how things stand after a pass.
type Queue struct {
	Jobs     []jobdir.Job // in the order of submission
	Complete bool         // false when some jobs could not be read
	Waits    map[backends.JobID]queue.Wait
	// Troubles are jobs that could not be started or ended now, with the reason.
	Troubles map[backends.JobID]error
}

// Pass brings the queue up to date: jobs whose supervisor died are ended, and
// what can start is started. Its caller holds the store's lock. A job that
// cannot be started or ended now is tried again at the next pass.
func Pass(s *jobdir.Store, cfg jobdir.Config, now time.Time) (Queue, error) {
	jobs, complete, err := s.List()
	if err != nil {
		return Queue{}, err
	}
	troubles := map[backends.JobID]error{}
	note := func(j *jobdir.Job, err error) {
		if err != nil {
			troubles[j.ID] = err
		}
	}
	for i := range jobs {
		j := &jobs[i]
		if j.Holds() {
			note(j, attend(cfg, j, now))
		} else if j.End == nil && j.Cancelled {
			note(j, finish(j, jobdir.End{State: backends.StateCancelled, Reason: ReasonCancelled, Time: now}))
		}
	}
	d := queue.Decide(cfg, jobs, now)
	for _, start := range d.Start {
		for i := range jobs {
			j := &jobs[i]
			if j.ID != start.ID {
				continue
			}
			if err := jobdir.SetStart(j.Dir, start.Assignment); err != nil {
				note(j, err)
				continue
			}
			j.Start = &start.Assignment
			note(j, attend(cfg, j, now))
		}
	}
	return Queue{Jobs: jobs, Complete: complete, Waits: d.Waits, Troubles: troubles}, nil
}

func finish(j *jobdir.Job, end jobdir.End) error {
	if err := jobdir.SetEnd(j.Dir, end); err != nil {
		return fmt.Errorf("note the end: %w", err)
	}
	j.End = &end
	return nil
}

// attend sees to a job that holds hosts: it has a supervisor, or gets one, or
// has lost the one it had.
func attend(cfg jobdir.Config, j *jobdir.Job, now time.Time) error {
	alive, err := jobdir.TryAlive(j.Dir)
	if err != nil {
		return fmt.Errorf("look after the job: %w", err)
	}
	if alive == nil {
		return nil
	}
	// The lock is free again once this copy and the new supervisor's are closed.
	defer func() { _ = alive.Close() }()
	// It may have ended, or begun and died, since it was read.
	fresh, err := jobdir.Load(j.Dir)
	if err != nil {
		return fmt.Errorf("look after the job: %w", err)
	}
	*j = fresh
	switch {
	case j.End != nil:
		return nil
	case j.Launching:
		return bury(j, now)
	case j.Cancelled:
		return finish(j, jobdir.End{State: backends.StateCancelled, Reason: ReasonCancelled, Time: now})
	}
	return spawn(cfg.Supervisor, j.Dir, alive)
}

// bury ends a job whose supervisor died: its program must not go on unattended
// on hosts that are given to others.
func bury(j *jobdir.Job, now time.Time) error {
	left, err := killStrays(j)
	if err != nil {
		return fmt.Errorf("end the job, whose supervisor died: %w", err)
	}
	if left > 0 {
		return fmt.Errorf("end the job, whose supervisor died: %d processes do not go", left)
	}
	return finish(j, jobdir.End{State: backends.StateNodeFail, Signal: 9, Reason: ReasonLost, Time: now})
}

// spawn starts the supervisor through a process in between that ends at once,
// so that the supervisor is nobody's child: a daemon needs no goroutine for it
// and leaves no zombie.
func spawn(supervisor, jobDir string, alive *os.File) error {
	logFile, err := os.OpenFile(filepath.Join(jobDir, "supervise.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	defer func() { _ = logFile.Close() }()
	cmd := exec.Command(supervisor, Command, jobDir) //nolint:gosec // the configured program and a path of our own
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + searchPath, "LC_ALL=C"}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{alive}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("start supervisor %s: %w (see %s)", supervisor, err, logFile.Name())
	}
	return nil
}

// searchPath is PATH of supervisors and jobs.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
