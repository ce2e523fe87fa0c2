package slurm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// programs that a cluster is made of and driven with.
var programs = []string{"slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo"}

// MissingError says which programs are not there.
type MissingError struct{ Programs []string }

func (e *MissingError) Error() string {
	return fmt.Sprintf("programs of Slurm are missing: %s; on Debian, as root: apt-get install --no-install-recommends %s",
		strings.Join(e.Programs, ", "), strings.Join(packages, " "))
}

// Installed returns nil when all programs are there, or a *MissingError.
func Installed() error {
	var missing []string
	for _, p := range programs {
		if _, err := find(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return &MissingError{Programs: missing}
	}
	return nil
}

// find looks in PATH and in the directories of system programs, which are not
// in every user's PATH.
func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", exec.ErrNotFound
}

// EnsureInstalled installs the Debian packages of Slurm when programs are
// missing and says so on w. It needs root and the network then. Programs that
// call it at the same time wait for one another.
func EnsureInstalled(ctx context.Context, w io.Writer) error {
	err := Installed()
	if err == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return err
	}
	if _, lookErr := exec.LookPath("apt-get"); lookErr != nil {
		return fmt.Errorf("%w (this machine has no apt-get)", err)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(os.TempDir(), "isthmus-testbed-apt.lock"), w)
	if err != nil {
		return err
	}
	defer unlock()
	if Installed() == nil {
		return nil // another program did it while we waited
	}
	fmt.Fprintf(w, "installing Debian packages: %s\n", strings.Join(packages, " "))
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	// The first try spares the download of the package lists.
	if err = aptGet(ctx, install...); err != nil {
		fmt.Fprintln(w, "updating the package lists first")
		if err := aptGet(ctx, "update"); err != nil {
			return err
		}
		if err = aptGet(ctx, install...); err != nil {
			return err
		}
	}
	return Installed()
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	// With this run level the packages' scripts start no system-wide daemons.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, lastLines(out, 5))
	}
	return nil
}

func lastLines(out []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
