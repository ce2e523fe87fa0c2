package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
	"github.com/isthmus-hpc/isthmus/test/testbed/kubelet"
	"github.com/isthmus-hpc/isthmus/test/testbed/metricsserver"
	"github.com/isthmus-hpc/isthmus/test/testbed/runtimes"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
	"github.com/isthmus-hpc/isthmus/test/testbed/vcctl"
)

// Prepare builds and installs everything that environments and tests need:
// the control plane, a kubelet with containerd, Slurm, python3, the mapped users. It tells
// progress what it did and what cannot be had here, which is no error: tests
// that need it say so and are skipped. Prepared already, it takes no time.
func Prepare(ctx context.Context, progress io.Writer) error {
	assets, err := controlplane.EnsureBuilt(ctx, progress)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "control plane: Kubernetes %s in %s\n", controlplane.Version, assets)
	if _, err := helm.EnsureBuilt(ctx, progress); err != nil {
		return err
	}
	fmt.Fprintf(progress, "helm %s: ready\n", helm.Version)
	if _, err := vcctl.EnsureBuilt(ctx, progress); err != nil {
		return err
	}
	fmt.Fprintf(progress, "vcctl %s: ready\n", vcctl.Version)
	if _, err := metricsserver.EnsureBuilt(ctx, progress); err != nil {
		return err
	}
	fmt.Fprintf(progress, "metrics-server %s: ready\n", metricsserver.Version)
	tell := func(what string, err error) {
		if err != nil {
			fmt.Fprintf(progress, "%s: not here, what needs it is skipped: %v\n", what, err)
			return
		}
		fmt.Fprintf(progress, "%s: ready\n", what)
	}
	if os.Geteuid() != 0 {
		tell("real Slurm", errors.New("it needs root"))
		tell("real sshd", errors.New("it needs root"))
		tell("mapped users", errors.New("they need root"))
		tell("container runtimes", errors.New("they need root"))
	} else {
		tell("real Slurm", slurm.EnsureInstalled(ctx, progress))
		tell("real sshd", sshd.EnsureInstalled(ctx, progress))
		tell("slurmrestd", slurm.EnsureRESTInstalled(ctx, progress))
		tell("mapped users "+account.Alice+" and "+account.Bob, account.Ensure(ctx, progress))
		tell("container runtimes charliecloud and podman", runtimes.EnsureInstalled(ctx, progress))
	}
	tell("python3", python().Ensure(ctx, progress))
	if os.Geteuid() != 0 {
		tell("real kubelet", errors.New("it needs root"))
	} else {
		tell("real kubelet with containerd", kubelet.EnsureInstalled(ctx, progress))
	}
	return ctx.Err()
}

// python is what the example jobs run on. Jobs have the system's PATH, so one in our own
// does not count.
func python() debian.Software {
	return debian.Software{Programs: []string{"/usr/bin/python3"}, Packages: []string{"python3"}}
}
