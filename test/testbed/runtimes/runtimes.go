// Package runtimes installs the container runtimes that Debian has, and busybox
// for images to test them with.
package runtimes

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

// programs are what tests need, and packages what they come in: runc, since crun
// refuses hosts that mix the versions of cgroups; uidmap, which podman wants for
// users that have subordinate ids; util-linux for nsenter.
var (
	programs = []string{"ch-run", "podman", "conmon", "runc", "busybox", "nsenter", "newuidmap"}
	packages = []string{"charliecloud-runtime", "podman", "conmon", "runc", "golang-github-containers-common", "netavark", "uidmap", "util-linux", "busybox-static"}
)

// Missing names the programs that are not there.
func Missing() []string {
	var missing []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join("/usr/sbin", p)); err != nil {
			missing = append(missing, p)
		}
	}
	return missing
}

// EnsureInstalled installs what is missing and says so on w. It needs root and
// the network then. Programs that call it at the same time wait for one another.
func EnsureInstalled(ctx context.Context, w io.Writer) error {
	if len(Missing()) == 0 {
		return nil
	}
	advice := "apt-get install --no-install-recommends " + strings.Join(packages, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("programs are missing: %s; on Debian, as root: %s", strings.Join(Missing(), ", "), advice)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(os.TempDir(), "isthmus-testbed-apt.lock"), w)
	if err != nil {
		return err
	}
	defer unlock()
	if len(Missing()) == 0 {
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
		if err := aptGet(ctx, install...); err != nil {
			return err
		}
	}
	if missing := Missing(); len(missing) > 0 {
		return fmt.Errorf("after their packages were installed, programs are missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

func aptGet(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	// With this run level the packages' scripts start no system-wide daemons.
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		out = bytes.TrimSpace(out)
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out[max(0, len(out)-500):])
	}
	return nil
}
