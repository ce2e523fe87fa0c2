// Package account makes the Linux users that testbed jobs run as. They cannot
// log in and own no home directory, but for one who is as users of a site are.
package account

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// The users of the testbed: Alice and Bob own jobs.
const (
	Alice = "isthmus-alice"
	Bob   = "isthmus-bob"
	// Rest is who slurmrestd runs as: neither root nor one who owns jobs.
	Rest = "isthmus-rest"
	// Carol has a shell and a home directory: sshd starts no program for a user
	// without the one, and many programs want the other. EnsureCarol makes her.
	Carol = "isthmus-carol"
)

// CarolsHome is her home directory.
const CarolsHome = "/var/lib/isthmus-carol"

// home is where no directory is and none is made: programs that want a home
// find out at once instead of sharing one.
const home = "/nonexistent"

// Ensure makes the users that are missing and tells progress which. It changes
// nothing when all exist. Making users needs root.
func Ensure(ctx context.Context, progress io.Writer) error {
	return ensure(ctx, progress, home, "--no-create-home", "/usr/sbin/nologin", Alice, Bob, Rest)
}

// EnsureCarol is Ensure for Carol. She has no password, so nobody logs in as her
// but by keys that her own programs accept.
func EnsureCarol(ctx context.Context, progress io.Writer) error {
	return ensure(ctx, progress, CarolsHome, "--create-home", "/bin/bash", Carol)
}

func ensure(ctx context.Context, progress io.Writer, home, createHome, shell string, names ...string) error {
	missing, err := missing(names...)
	if err != nil || len(missing) == 0 {
		return err
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("make users %s: this needs root; as root run: useradd %s -d %s -s %s NAME",
			strings.Join(missing, " and "), createHome, home, shell)
	}
	// Test programs run side by side, and useradd refuses to wait for its own lock.
	unlock, err := checkout.Lock(ctx, filepath.Join(os.TempDir(), "isthmus-testbed-accounts.lock"), progress)
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range missing {
		if _, err := user.Lookup(name); err == nil {
			continue // another program made it while we waited
		}
		fmt.Fprintf(progress, "making the user %s (home %s, shell %s)\n", name, home, shell)
		out, err := exec.CommandContext(ctx, "useradd", createHome, "--home-dir", home,
			"--shell", shell, "--comment", "Isthmus testbed", name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make user %s: %w: %s", name, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

func missing(names ...string) ([]string, error) {
	var out []string
	for _, name := range names {
		_, err := user.Lookup(name)
		var unknown user.UnknownUserError
		switch {
		case errors.As(err, &unknown):
			out = append(out, name)
		case err != nil:
			return nil, fmt.Errorf("look up user %s: %w", name, err)
		}
	}
	return out, nil
}
