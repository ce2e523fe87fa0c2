package slurm_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm/slurmtest"
)

// shared is the cluster of all tests of the package: it is started by the
// first that wants it. Each test keeps to a partition of its own.
var shared struct {
	sync.Mutex
	cluster *testbed.Cluster
	err     error
}

// The partitions: suite for the conformance suite, shares for shares of GPUs, gpu (two hosts of 8 GPUs),
// mixed (hosts with two GPU types), slow for what waits, down for outages.
func clusterConfig() testbed.Config {
	return testbed.Config{
		Name: "unit",
		Hosts: []testbed.Hosts{
			{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000, GPUType: "t4", GPUs: 1, Shards: 3},
			{Prefix: "gpu", Count: 3, CPUs: 64, MemoryMiB: 500000, GPUType: "a100", GPUs: 8, Features: []string{"nvlink", "ib"}},
			{Prefix: "s", Count: 3, CPUs: 8, MemoryMiB: 8000},
			{Prefix: "g", Count: 2, CPUs: 8, MemoryMiB: 8000, GPUType: "t4", GPUs: 2, Shards: 8},
		},
		Partitions: []testbed.Partition{
			{Name: "suite", Hosts: []string{"n1", "n2"}, Default: true},
			{Name: "gpu", Hosts: []string{"gpu1", "gpu2"}, MaxTime: "2-00:00:00"},
			{Name: "gpuspare", Hosts: []string{"gpu3"}, Extra: "DefaultTime=30 MaxNodes=1"},
			{Name: "shares", Hosts: []string{"g1", "g2"}},
			{Name: "slow", Hosts: []string{"s1", "s2", "s3"}},
		},
		Licenses: map[string]int{"suite": 2, "ssh": 2},
		Extra:    []string{"EnforcePartLimits=NO"},
	}
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if shared.cluster != nil {
		if err := shared.cluster.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// needsReal skips a test where no real Slurm can run.
func needsReal(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if testing.Short() {
		t.Skip("-short: this test runs a real Slurm cluster")
	}
}

// ownCluster starts a cluster for one test, which stops with it.
func ownCluster(t *testing.T, config testbed.Config) *testbed.Cluster {
	t.Helper()
	needsReal(t)
	return slurmtest.Start(t, config)
}

// realCluster is the cluster of all tests of the package.
func realCluster(t *testing.T) *testbed.Cluster {
	t.Helper()
	needsReal(t)
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.err = func() error {
			if err := testbed.EnsureInstalled(t.Context(), os.Stderr); err != nil {
				return err
			}
			if err := account.Ensure(t.Context(), os.Stderr); err != nil {
				return err
			}
			// Not t.Context: the cluster outlives the test that starts it.
			var err error
			shared.cluster, err = testbed.Start(context.WithoutCancel(t.Context()), clusterConfig())
			return err
		}()
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

func newReal(t *testing.T, c *testbed.Cluster) (*slurm.Backend, *transporttest.Counting) {
	t.Helper()
	runner := &transporttest.Counting{Runner: local.New(), Program: "squeue"}
	b, err := slurm.New(slurm.Config{Runner: runner, Env: c.Env()})
	if err != nil {
		t.Fatal(err)
	}
	return b, runner
}

func TestConformance(t *testing.T) {
	t.Parallel()
	c := realCluster(t)
	b, runner := newReal(t, c)
	n := 0
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		n++
		d := backendtest.DiskOf(t, account.Alice)
		return backendtest.Harness{
			Backend: b, Owner: fmt.Sprintf("suite-%d-x", n), OtherOwner: fmt.Sprintf("suite-%d-y", n),
			User: account.Alice, Users: []string{account.Alice, account.Bob},
			Partition: "suite", Slots: 8, MemoryMiB: 100,
			Place: d.Place, Trace: d.Trace, Log: d.Log,
			Interval: 100 * time.Millisecond, Rounds: 600,
			Singleton: true, License: "suite", Shards: 3,
			Queries: runner.Runs,
			Reopen: func(t *testing.T) backends.Backend {
				b, _ := newReal(t, c)
				return b
			},
		}
	})
}
