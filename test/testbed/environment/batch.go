package environment

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// batchSystem is what an environment needs of a batch system.
type batchSystem interface {
	// describe fills in type, connection and virtual nodes.
	describe(*hpc.BatchClusterSpec)
	// dead names the daemons that should run and do not.
	dead() []string
	// revive starts those again.
	revive(context.Context) error
	// stop ends the daemons and their jobs. It may be repeated.
	stop() error
	// jobs lists all jobs the batch system knows of, live and recently ended.
	jobs(context.Context) ([]BatchJob, error)
	// show returns the batch system's own words on a job.
	show(ctx context.Context, id string) (string, error)
}

// BatchJob is one job of the batch system.
type BatchJob struct {
	ID     string
	Name   string
	User   string
	State  string // in the batch system's words
	Reason string // why it waits, if it does
	Nodes  string // the hosts it runs on
}

// BatchJobs lists all jobs the batch system knows of, live and recently ended.
func (e *Environment) BatchJobs(ctx context.Context) ([]BatchJob, error) { return e.system.jobs(ctx) }

// ShowBatchJob returns what the batch system's own command says of a job.
func (e *Environment) ShowBatchJob(ctx context.Context, id string) (string, error) {
	return e.system.show(ctx, id)
}

// startBatch chooses the batch system and starts it.
func (e *Environment) startBatch(ctx context.Context, config Config) error {
	e.Batch = config.Batch
	if e.Batch == "" {
		e.Batch = BatchSlurm
		if why := slurmImpossible(ctx, e.progress); why != "" {
			e.Batch, e.BatchReason = BatchLocal, why
			fmt.Fprintf(e.progress, "  real Slurm cannot run here: %s\n  using the batch system of type local instead\n", why)
		}
	}
	if os.Geteuid() == 0 {
		if err := account.Ensure(ctx, e.progress); err != nil {
			return err
		}
	}
	var err error
	if e.User, err = jobUser(); err != nil {
		return err
	}
	if err := e.save(); err != nil {
		return err
	}
	switch e.Batch {
	case BatchSlurm:
		return e.startSlurm(ctx, config)
	case BatchPBS, BatchTorque:
		return e.startPBS(ctx, config)
	case BatchLocal:
		if err := e.makeShared("isthmus-local-"); err != nil {
			return err
		}
		e.system, e.Staging = local{e}, filepath.Join(e.Shared, "staging")
		if err := os.Mkdir(e.Staging, 0o755); err != nil {
			return fmt.Errorf("make staging directory: %w", err)
		}
		// As with /tmp, every job's user makes a folder of its own in it.
		if err := os.Chmod(e.Staging, 0o777|os.ModeSticky); err != nil {
			return fmt.Errorf("make staging directory: %w", err)
		}
		return e.save()
	}
	return fmt.Errorf("no batch system is named %q: %s, %s, %s or %s", config.Batch, BatchSlurm, BatchPBS, BatchTorque, BatchLocal)
}

// attachBatch opens the batch system that another program started.
func (e *Environment) attachBatch() error {
	switch e.Batch {
	case BatchSlurm:
		return e.attachSlurm()
	case BatchPBS, BatchTorque:
		return e.attachPBS()
	case BatchLocal:
		e.system = local{e}
	}
	return nil // without a name, the environment had not come that far
}

// makeShared makes the directory that the jobs' users can enter.
func (e *Environment) makeShared(prefix string) error {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return fmt.Errorf("make shared directory: %w", err)
	}
	e.Shared = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("make shared directory: %w", err)
	}
	return e.save()
}

// jobUser is the account that jobs run as: a test account where we may become
// another user, and ourselves elsewhere.
func jobUser() (string, error) {
	if os.Geteuid() == 0 {
		return account.Alice, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find the current user: %w", err)
	}
	return u.Username, nil
}
