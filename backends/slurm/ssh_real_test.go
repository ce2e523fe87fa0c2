package slurm_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd/sshdtest"
)

// The contract holds over SSH as it does on this host: a login node, from which
// the mapped users are reached by sudo.
func TestConformanceOverSSH(t *testing.T) {
	c := realCluster(t) // skips where nothing real can run
	counted := &transporttest.Counting{Runner: sshdtest.Runner(t), Program: "squeue"}
	open := func(t *testing.T) backends.Backend {
		t.Helper()
		b, err := slurm.New(slurm.Config{Runner: counted, Env: c.Env()})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b, n := open(t), 0
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		n++
		d := backendtest.DiskOf(t, account.Alice)
		return backendtest.Harness{
			Backend: b, Owner: fmt.Sprintf("ssh-%d-x", n), OtherOwner: fmt.Sprintf("ssh-%d-y", n),
			User: account.Alice, Users: []string{account.Alice, account.Bob},
			Partition: "suite", Slots: 8, MemoryMiB: 100,
			Place: d.Place, Trace: d.Trace, Log: d.Log,
			Interval: 100 * time.Millisecond, Rounds: 600,
			Singleton: true, License: "ssh", NoRights: true,
			Queries: counted.Runs,
			Reopen:  open,
		}
	})
}
