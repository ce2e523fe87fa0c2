package slurm_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

func TestAccounting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if err := slurm.EnsureAccountingInstalled(t.Context(), t.Output()); err != nil {
		if missing := (*slurm.MissingError)(nil); errors.As(err, &missing) {
			t.Skipf("the accounting database cannot be installed: %v", err)
		}
		t.Fatal(err)
	}
	config := slurm.Config{Name: "books", Hosts: []slurm.Hosts{{Prefix: "n", Count: 1, CPUs: 4, MemoryMiB: 4000, GPUs: 2}},
		Dir: t.TempDir(), Accounting: true}
	if err := os.Chmod(config.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// The directory of t.TempDir is in one that keeps others out.
	if err := os.Chmod(config.Dir+"/..", 0o755); err != nil {
		t.Fatal(err)
	}
	config.Detached = true
	for round := range 2 {
		c := start(t, config)
		t.Cleanup(func() { _ = c.Stop(t.Context()) }) // again, in case the test fails before
		if got := run(t, c, "sacctmgr", "-n", "-P", "show", "assoc", "cluster=books", "account="+slurm.AccountName, "format=account,user"); got !=
			"testbed|\ntestbed|"+account.Alice+"\ntestbed|"+account.Bob {
			t.Errorf("round %d: associations %q", round, got)
		}
		id := run(t, c, "sbatch", "--parsable", "--gpus=1", "--job-name=kept", "--chdir=/tmp", "--output=/dev/null", "--wrap=exit 3")
		until(t, "sacct tells how the job ended", func() bool {
			return run(t, c, "sacct", "-n", "-P", "-X", "-j", id, "-o", "JobName,State,ExitCode") == "kept|FAILED|3:0"
		})
		if got := run(t, c, "sacct", "-n", "-P", "-X", "-j", id, "-o", "AllocTRES"); !strings.Contains(got, "gres/gpu=1") {
			t.Errorf("round %d: allocated %q", round, got)
		}
		again, err := slurm.Attach(c.Dir)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, c := range strings.Split(c.LogTails(0), "== ") {
			if _, name, ok := strings.Cut(c, "/logs/"); ok {
				names = append(names, strings.TrimSpace(name))
			}
		}
		if got := strings.Join(names, " "); got != "munged.log mariadbd.log slurmdbd.log slurmctld.log slurmd-n1.log" {
			t.Errorf("started in the order %s", got)
		}
		t.Logf("logs:\n%s", c.LogTails(30))
		if err := again.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := process.Belonging(c.Dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %+v, %v", left, err)
		}
	}
}
