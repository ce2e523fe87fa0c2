package slurm_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

func start(t *testing.T, config slurm.Config) *slurm.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if err := slurm.EnsureInstalled(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	c, err := slurm.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// until looks every now and then whether ok is true.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to this: %s", what)
		}
		<-time.After(100 * time.Millisecond)
	}
}

func run(t *testing.T, c *slurm.Cluster, argv ...string) string {
	t.Helper()
	out, err := c.Run(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func TestTwoClustersSideBySide(t *testing.T) {
	first := start(t, slurm.Config{Hosts: []slurm.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000}}, Name: "one"})
	second := start(t, slurm.Config{Hosts: []slurm.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000}}, Name: "two"})
	if first.Address("n1") == second.Address("n1") || first.Address("n1") == first.Address("n2") || first.Address("x") != "" {
		t.Errorf("addresses %s, %s, %s", first.Address("n1"), first.Address("n2"), second.Address("n1"))
	}
	for _, c := range []*slurm.Cluster{first, second} {
		// A job that would go on for ever, with a child that ignores signals.
		run(t, c, "sbatch", "--chdir=/tmp", "--output=/dev/null", "--wrap=trap '' TERM; sleep 1000 & sleep 1000")
		until(t, "the job runs", func() bool { return run(t, c, "squeue", "-h", "-o", "%T") == "RUNNING" })
	}
	if got := run(t, first, "squeue", "-h", "-o", "%i"); got != "1" {
		t.Errorf("the first cluster lists jobs %q", got)
	}

	// The second is ended by somebody who has only the directory.
	again, err := slurm.Attach(second.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*slurm.Cluster{first, again} {
		if err := c.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := process.Belonging(c.Dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %+v, %v", left, err)
		}
		if _, err := os.Stat(c.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", c.Dir, err)
		}
	}
}

func TestOutages(t *testing.T) {
	c := start(t, slurm.Config{Hosts: []slurm.Hosts{{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000, GPUs: 2, GPUType: "t4"}}})
	defer func() {
		if err := c.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	run(t, c, "sbatch", "--requeue", "--nodelist=n2", "--partition=b", "--chdir=/tmp", "--output=/dev/null", "--wrap=sleep 1000")
	until(t, "the job runs", func() bool { return run(t, c, "squeue", "-h", "-o", "%T") == "RUNNING" })
	// In order first: that saves the job, which a crash right now would lose.
	if err := c.StopController(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), "squeue"); err == nil {
		t.Error("squeue works without a controller")
	}
	if err := c.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.KillController(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the job still runs", func() bool { return run(t, c, "squeue", "-h", "-o", "%T") == "RUNNING" })
	if err := c.StopHost("n2"); err != nil {
		t.Fatal(err)
	}
	// Slurm takes half a minute to notice; the administrator tells it.
	run(t, c, "scontrol", "update", "nodename=n2", "state=down", "reason=test")
	until(t, "the job is requeued", func() bool { return run(t, c, "squeue", "-h", "-o", "%T") == "PENDING" })
	if err := c.StartHost(t.Context(), "n2"); err != nil {
		t.Fatal(err)
	}
}

func TestRefusals(t *testing.T) {
	for what, config := range map[string]slurm.Config{
		"bad name":   {Name: "Has Space"},
		"no CPUs":    {Hosts: []slurm.Hosts{{Prefix: "n", Count: 1, MemoryMiB: 10}}},
		"many hosts": {Hosts: []slurm.Hosts{{Prefix: "n", Count: 1000, CPUs: 1, MemoryMiB: 10}}},
	} {
		if c, err := slurm.Start(t.Context(), config); err == nil {
			t.Errorf("%s: started", what)
			_ = c.Stop(t.Context())
		}
	}
	if os.Geteuid() != 0 {
		return
	}
	// t.TempDir keeps other users out, so their jobs could not run.
	private := t.TempDir()
	if err := os.Chmod(private, 0o755); err != nil {
		t.Fatal(err)
	}
	closed := private + "/closed"
	if err := os.MkdirAll(closed+"/dir", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := slurm.Start(t.Context(), slurm.Config{Dir: closed + "/dir"}); err == nil || !strings.Contains(err.Error(), "keeps other users out") {
		t.Errorf("got %v", err)
	}
}
