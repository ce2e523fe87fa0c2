// Package debian installs the Debian packages that tests need.
package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// Software is a set of programs and the packages they come in.
type Software struct {
	// Programs are names in PATH or the system's directories, or paths.
	Programs, Packages []string
}

// Missing names the programs that are not there.
func (s Software) Missing() []string {
	var missing []string
	for _, p := range s.Programs {
		if _, err := Find(p); err != nil {
			missing = append(missing, p)
		}
	}
	return missing
}

// Installed is a *MissingError when programs are not there.
func (s Software) Installed() error {
	if missing := s.Missing(); len(missing) > 0 {
		return &MissingError{Programs: missing, Packages: s.Packages}
	}
	return nil
}

// MissingError says which programs are not there.
type MissingError struct {
	Programs []string
	// Packages are those that all of the programs come in.
	Packages []string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("programs are missing: %s; on Debian, as root: apt-get install --no-install-recommends %s",
		strings.Join(e.Programs, ", "), strings.Join(e.Packages, " "))
}

// Find looks in PATH and in the directories of system programs, which are not
// in every user's PATH. A path is only looked at.
func Find(program string) (string, error) {
	if filepath.IsAbs(program) { // maybe no program, but a library
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("find: %w", err)
		}
		return program, nil
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: %w", program, exec.ErrNotFound)
}

// Ensure installs the packages when programs are missing and says so on w; it
// needs root, apt-get and the network then; without the first two the error is a
// *MissingError. Programs that call it at the same time wait for one another. It starts
// no system-wide daemon.
func (s Software) Ensure(ctx context.Context, w io.Writer) error {
	lacking := s.Installed()
	if lacking == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return lacking
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("%w (this machine has no apt-get)", lacking)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(os.TempDir(), "isthmus-testbed-apt.lock"), w)
	if err != nil {
		return err
	}
	defer unlock()
	if len(s.Missing()) == 0 {
		return nil // another program did it while we waited
	}
	fmt.Fprintf(w, "installing Debian packages: %s\n", strings.Join(s.Packages, " "))
	install := append([]string{"install", "-y", "--no-install-recommends"}, s.Packages...)
	// The first try spares the download of the package lists.
	if err := aptGet(ctx, install...); err != nil {
		fmt.Fprintln(w, "updating the package lists first")
		if err := aptGet(ctx, "update"); err != nil {
			return err
		}
		if err := aptGet(ctx, install...); err != nil {
			return err
		}
	}
	if missing := s.Missing(); len(missing) > 0 {
		// No *MissingError: installing them is possible and went wrong.
		return errors.New("after their packages were installed, still missing: " + strings.Join(missing, ", "))
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	// policy-rc.d would be the clean way; with this run level the packages'
	// scripts start no daemons either.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, bytes.Join(lines[max(0, len(lines)-5):], []byte("\n")))
	}
	return nil
}
