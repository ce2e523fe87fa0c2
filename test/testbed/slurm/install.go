package slurm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// software is a set of programs and the Debian packages they come in.
type software struct{ programs, packages []string }

// plain is what every cluster is made of and driven with.
func plain() software {
	return software{
		programs: []string{"slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo"},
		packages: []string{"slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"},
	}
}

// withAccounting adds the accounting database. The package mariadb-server is
// not needed: it only wraps the programs of mariadb-server-core in a
// system-wide service, which its installation would start. The core package
// has neither services nor scripts. The one of slurmdbd has a service that does
// not start without a file in /etc/slurm, which the package does not bring.
func withAccounting() software {
	s := plain()
	return software{
		programs: append(s.programs, "slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "my_print_defaults"),
		packages: append(s.packages, "slurmdbd", "mariadb-server-core", "mariadb-client-core"),
	}
}

// withREST adds the daemon of the REST API and the plugin for its tokens.
func withREST() software {
	s := plain()
	return software{
		programs: append(s.programs, "slurmrestd", "/usr/lib/"+debianArch()+"/slurm-wlm/auth_jwt.so"),
		packages: append(s.packages, "slurmrestd", "slurm-wlm-jwt-plugin"),
	}
}

// withNetworks adds what makes network namespaces.
func withNetworks() software {
	s := plain()
	return software{programs: append(s.programs, "ip", "nsenter", "unshare", "hostname"), packages: append(s.packages, "iproute2", "util-linux", "hostname")}
}

// debianArch is Debian's name for the folder of this machine's libraries.
func debianArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

// MissingError says which programs are not there.
type MissingError struct {
	Programs []string
	Packages []string // the Debian packages that all programs come in
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("programs of Slurm are missing: %s; on Debian, as root: apt-get install --no-install-recommends %s",
		strings.Join(e.Programs, ", "), strings.Join(e.Packages, " "))
}

// Installed returns nil when all programs of a cluster without accounting are
// there, or a *MissingError.
func Installed() error { return plain().installed() }

// AccountingInstalled is Installed for a cluster with accounting.
func AccountingInstalled() error { return withAccounting().installed() }

// RESTInstalled is Installed for a cluster with REST.
func RESTInstalled() error { return withREST().installed() }

func (s software) installed() error {
	var missing []string
	for _, p := range s.programs {
		if _, err := find(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return &MissingError{Programs: missing, Packages: s.packages}
	}
	return nil
}

// find looks in PATH and in the directories of system programs, which are not
// in every user's PATH.
func find(program string) (string, error) {
	if filepath.IsAbs(program) { // a plugin, which is no program
		_, err := os.Stat(program)
		return program, err
	}
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
// call it at the same time wait for one another. Without root or apt-get the
// error is a *MissingError.
func EnsureInstalled(ctx context.Context, w io.Writer) error { return plain().ensure(ctx, w) }

// EnsureAccountingInstalled is EnsureInstalled for a cluster with accounting.
// It starts no system-wide service.
func EnsureAccountingInstalled(ctx context.Context, w io.Writer) error {
	return withAccounting().ensure(ctx, w)
}

// EnsureRESTInstalled is EnsureInstalled for a cluster with REST.
func EnsureRESTInstalled(ctx context.Context, w io.Writer) error { return withREST().ensure(ctx, w) }

// EnsureNetworksInstalled is EnsureInstalled for a cluster with Networks.
func EnsureNetworksInstalled(ctx context.Context, w io.Writer) error {
	return withNetworks().ensure(ctx, w)
}

func (s software) ensure(ctx context.Context, w io.Writer) error {
	err := s.installed()
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
	if s.installed() == nil {
		return nil // another program did it while we waited
	}
	fmt.Fprintf(w, "installing Debian packages: %s\n", strings.Join(s.packages, " "))
	install := append([]string{"install", "-y", "--no-install-recommends"}, s.packages...)
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
	if err := s.installed(); err != nil {
		// Not a *MissingError any more: installing them is possible and went wrong.
		return fmt.Errorf("after their packages were installed: %v", err) //nolint:errorlint // it must not be taken for a missing package
	}
	return nil
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
