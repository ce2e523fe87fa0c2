package pbs_test

import (
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/pbs"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd/sshdtest"
)

// The contract holds over SSH as it does on this host: a login node with the
// commands of PBS, from which the mapped users are reached by sudo. The first
// forgets ended jobs, so that records travel as well.
func TestConformanceOverSSH(t *testing.T) {
	for name, c := range map[string]struct {
		dialect pbs.Dialect
		config  testbed.Config
	}{
		"pbs":    {pbs.Pro, testbed.Config{}},
		"torque": {pbs.Torque, testbed.Config{Torque: true, KeepCompleted: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := standin(t, suiteConfig(c.config)) // skips where no stand-in can run
			conform(t, cluster, c.dialect, sshdtest.Runner(t))
		})
	}
}
