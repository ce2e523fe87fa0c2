// Package slurmtest gives tests a real Slurm of their own on this host.
package slurmtest

import (
	"context"
	"os"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// Start makes the testbed's users, installs what the cluster needs, starts it, and stops
// it with the test. It skips the test where no cluster can run. If the test fails, the
// ends of the cluster's logs are shown.
func Start(t *testing.T, config slurm.Config) *slurm.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	install := slurm.EnsureInstalled
	switch {
	case config.REST:
		install = slurm.EnsureRESTInstalled
	case config.Networks:
		install = slurm.EnsureNetworksInstalled
	case config.Accounting:
		install = slurm.EnsureAccountingInstalled
	}
	if err := install(t.Context(), t.Output()); err != nil {
		t.Fatal(err) // as root it must be possible, and a skip would hide that it is not
	}
	c, err := slurm.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.LogTails(20))
		}
		if err := c.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return c
}
