package slurm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

func TestAccounting(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if err := slurm.EnsureAccountingInstalled(t.Context(), t.Output()); err != nil {
		if missing := (*debian.MissingError)(nil); errors.As(err, &missing) {
			t.Skipf("the accounting database cannot be installed: %v", err)
		}
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The directory around it keeps other users out.
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// The second time the directory holds the database of the first.
	for round := range 2 {
		c := start(t, slurm.Config{
			Name: "books", Dir: dir, Detached: true, Accounting: true,
			Hosts: []slurm.Hosts{{Prefix: "n", Count: 1, CPUs: 4, MemoryMiB: 4000, GPUs: 2}},
		})
		t.Cleanup(func() {
			if err := c.Stop(t.Context()); err != nil { // again, when the test has not failed
				t.Error(err)
			}
		})
		if got := run(t, c, "sacctmgr", "-n", "-P", "show", "assoc", "account="+slurm.AccountName, "format=cluster,user"); got !=
			"books|\nbooks|"+account.Alice+"\nbooks|"+account.Bob {
			t.Errorf("round %d: associations %q", round, got)
		}
		id := run(t, c, "sbatch", "--parsable", "--gpus=1", "--job-name=kept", "--chdir=/tmp", "--output=/dev/null", "--wrap=exit 3")
		until(t, "sacct tells how the job ended", func() bool {
			return run(t, c, "sacct", "-n", "-P", "-X", "-j", id, "-o", "JobName,State,ExitCode") == "kept|FAILED|3:0"
		})
		if got := run(t, c, "sacct", "-n", "-P", "-X", "-j", id, "-o", "AllocTRES"); !strings.Contains(got, "gres/gpu=1") {
			t.Errorf("round %d: allocated %q", round, got)
		}
		for file, mode := range map[string]os.FileMode{"database": 0o700, "slurmdbd.conf": 0o600} {
			if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v", file, info, err)
			}
		}
		// They are stopped in the reverse order.
		group, err := process.Open(dir, process.Options{})
		if err != nil {
			t.Fatal(err)
		}
		var order []string
		for _, p := range group.Members() {
			order = append(order, p.Name)
		}
		if got := strings.Join(order, " "); got != "munged mariadbd slurmdbd slurmctld slurmd-n1" {
			t.Errorf("started in the order %s", got)
		}

		again, err := slurm.Attach(dir)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := again.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Logf("stopped in %v", time.Since(began))
		if left, err := process.Belonging(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %+v, %v", left, err)
		}
	}
}
