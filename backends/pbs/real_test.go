package pbs_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/pbs/pbstest"
)

// standin starts a stand-in of PBS or Torque for one test.
func standin(t *testing.T, config testbed.Config) *testbed.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test runs a stand-in of PBS")
	}
	if config.KillDelay == 0 {
		config.KillDelay = 2 * time.Second
	}
	return pbstest.Start(t, config)
}

func backendOn(t *testing.T, c *testbed.Cluster, dialect pbs.Dialect) (*pbs.Backend, *transporttest.Counting) {
	t.Helper()
	return backendBy(t, c, dialect, local.New())
}

func backendBy(t *testing.T, c *testbed.Cluster, dialect pbs.Dialect, way transport.Runner) (*pbs.Backend, *transporttest.Counting) {
	t.Helper()
	runner := &transporttest.Counting{Runner: way, Program: "qstat"}
	b, err := pbs.New(pbs.Config{
		Runner: runner, Dialect: dialect, Env: c.Env(),
		Records: func(user string) (string, error) { return filepath.Join(c.StagingDir, user, "records"), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return b, runner
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		dialect pbs.Dialect
		config  testbed.Config
	}{
		"history":        {pbs.Pro, testbed.Config{History: true}},
		"no history":     {pbs.Pro, testbed.Config{}},
		"hidden":         {pbs.Pro, testbed.Config{History: true, HideOthers: true}},
		"torque":         {pbs.Torque, testbed.Config{Torque: true, KeepCompleted: time.Minute}},
		"torque forgets": {pbs.Torque, testbed.Config{Torque: true, KeepCompleted: time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conform(t, standin(t, suiteConfig(c.config)), c.dialect, local.New())
		})
	}
}

// suiteConfig is config with what the suite needs.
func suiteConfig(config testbed.Config) testbed.Config {
	config.Hosts = []testbed.Host{{Name: "n1", CPUs: 4, MemoryMiB: 4000}, {Name: "n2", CPUs: 4, MemoryMiB: 4000}}
	config.Queues = []testbed.Queue{{Name: "workq"}, {Name: "suite", Hosts: []string{"n1", "n2"}}}
	return config
}

// conform runs the suite through a runner.
func conform(t *testing.T, cluster *testbed.Cluster, dialect pbs.Dialect, way transport.Runner) {
	b, runner := backendBy(t, cluster, dialect, way)
	n := 0
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		n++
		d := backendtest.DiskOf(t, account.Alice)
		return backendtest.Harness{
			Backend: b, Owner: fmt.Sprintf("suite-%d-x", n), OtherOwner: fmt.Sprintf("suite-%d-y", n),
			User: account.Alice, Users: []string{account.Alice},
			Partition: "suite", Slots: 8, MemoryMiB: 100,
			Place: d.Place, Trace: d.Trace, Log: d.Log,
			Interval: 50 * time.Millisecond, Rounds: 1200, Walltime: 3 * time.Second,
			Queries: runner.Runs,
			Reopen: func(t *testing.T) backends.Backend {
				b, _ := backendBy(t, cluster, dialect, way)
				return b
			},
		}
	})
}
