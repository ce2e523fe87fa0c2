// Package pbstest gives tests a stand-in of PBS or Torque of their own on this host.
package pbstest

import (
	"os"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// Start makes the testbed's users, starts a stand-in, and stops it with the test. It skips
// the test where none can run. If the test fails, the ends of its logs are shown.
func Start(t *testing.T, config pbs.Config) *pbs.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: the stand-in starts jobs as their users")
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	c, err := pbs.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.LogTails(20))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	return c
}
