// Package measuring gives programs that measure the bridge what they measure it on: a
// real Slurm of their own and the pod runner.
package measuring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// Site is a cluster that runs, and the pod runner in its directory.
type Site struct {
	Cluster *slurm.Cluster
	Podrun  string
}

// errLacking is wrapped by errors that say what the machine lacks: a measurement is then
// left out, rather than failed.
var errLacking = errors.New("this machine cannot be measured on")

// Lacking reports whether Start has failed for what the machine is.
func Lacking(err error) bool { return errors.Is(err, errLacking) }

// Start makes the testbed's users, starts a cluster and builds the pod runner, with its
// progress on standard error. The caller stops the cluster. After an error nothing runs.
func Start(ctx context.Context, config slurm.Config) (_ *Site, err error) {
	if os.Geteuid() != 0 {
		return nil, lacking(errors.New("not root, and a real Slurm starts jobs as their users"))
	}
	if err := slurm.EnsureInstalled(ctx, os.Stderr); err != nil {
		return nil, lacking(err)
	}
	if err := account.Ensure(ctx, os.Stderr); err != nil {
		return nil, err
	}
	root, err := checkout.Root()
	if err != nil {
		return nil, err
	}
	config.Progress = os.Stderr
	cluster, err := slurm.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cluster.Stop(context.WithoutCancel(ctx)))
		}
	}()
	podrun := filepath.Join(cluster.Dir, "podrun")
	build := checkout.GoBuild{Module: root, Package: "./cmd/podrun", Output: podrun, Flags: []string{"-ldflags", "-s -w"}}
	if err := build.Run(ctx, os.Stderr, "building podrun"); err != nil {
		return nil, err
	}
	return &Site{Cluster: cluster, Podrun: podrun}, nil
}

func lacking(err error) error { return fmt.Errorf("%w: %w", errLacking, err) }
