// Package measuring is what programs that measure have in common: how they are run, and
// what the bridge is measured on, a real Slurm of their own and the pod runner.
package measuring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// Site is a cluster that runs, and the pod runner in its directory.
type Site struct {
	Cluster *slurm.Cluster
	Podrun  string
}

// Main runs a program of that name until a signal comes. It says what went wrong and
// ends with status 1; a measurement that this machine cannot make is left out.
func Main(name string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, errLacking):
		fmt.Fprintf(os.Stdout, "%s: SKIP: %v\n", name, err)
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// errLacking is wrapped by errors that say what the machine lacks: a measurement is then
// left out, rather than failed.
var errLacking = errors.New("this machine cannot be measured on")

// On measures on a site with a cluster of its own, which is stopped afterwards.
func On(ctx context.Context, config slurm.Config, measure func(*Site) error) error {
	site, err := start(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(measure(site), site.Cluster.Stop(context.WithoutCancel(ctx)))
}

// start makes the testbed's users, starts a cluster and builds the pod runner, with its
// progress on standard error. The caller stops the cluster. After an error nothing runs.
func start(ctx context.Context, config slurm.Config) (_ *Site, err error) {
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
