// Package runtimes installs the container runtimes that Debian has, and busybox
// for images to test them with.
package runtimes

import (
	"context"
	"io"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// software is what tests need: runc, since crun refuses hosts that mix the versions of
// cgroups; uidmap, which podman wants for users that have subordinate ids; util-linux for
// nsenter.
func software() debian.Software {
	return debian.Software{
		Programs: []string{"ch-run", "podman", "conmon", "runc", "busybox", "nsenter", "newuidmap"},
		Packages: []string{"charliecloud-runtime", "podman", "conmon", "runc", "golang-github-containers-common", "netavark", "uidmap", "util-linux", "busybox-static"},
	}
}

// EnsureInstalled installs what is missing and says so on w. It needs root and
// the network then. Programs that call it at the same time wait for one another.
func EnsureInstalled(ctx context.Context, w io.Writer) error { return software().Ensure(ctx, w) }
