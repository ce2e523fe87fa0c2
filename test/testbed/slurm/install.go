package slurm

import (
	"bytes"
	"context"
	"io"
	"runtime"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// plain is what every cluster is made of and driven with.
func plain() debian.Software {
	return debian.Software{
		Programs: []string{"slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol", "scancel", "srun", "sinfo"},
		Packages: []string{"slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins", "munge"},
	}
}

// withAccounting adds the accounting database. The package mariadb-server is
// not needed: it only wraps the programs of mariadb-server-core in a
// system-wide service, which its installation would start. The core package
// has neither services nor scripts. The one of slurmdbd has a service that does
// not start without a file in /etc/slurm, which the package does not bring.
func withAccounting() debian.Software {
	s := plain()
	return debian.Software{
		Programs: append(s.Programs, "slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "my_print_defaults"),
		Packages: append(s.Packages, "slurmdbd", "mariadb-server-core", "mariadb-client-core"),
	}
}

// withREST adds the daemon of the REST API and the plugin for its tokens.
func withREST() debian.Software {
	s := plain()
	return debian.Software{
		Programs: append(s.Programs, "slurmrestd", "/usr/lib/"+debianArch()+"/slurm-wlm/auth_jwt.so"),
		Packages: append(s.Packages, "slurmrestd", "slurm-wlm-jwt-plugin"),
	}
}

// withNetworks adds what makes network namespaces.
func withNetworks() debian.Software {
	s := plain()
	return debian.Software{Programs: append(s.Programs, "ip", "nsenter", "unshare", "hostname"), Packages: append(s.Packages, "iproute2", "util-linux", "hostname")}
}

// debianArch is Debian's name for the folder of this machine's libraries.
func debianArch() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

// EnsureInstalled installs the Debian packages of Slurm when programs are
// missing and says so on w. It needs root and the network then. Programs that
// call it at the same time wait for one another. Without root or apt-get the
// error is a *debian.MissingError.
func EnsureInstalled(ctx context.Context, w io.Writer) error { return plain().Ensure(ctx, w) }

// EnsureAccountingInstalled is EnsureInstalled for a cluster with accounting.
// It starts no system-wide service.
func EnsureAccountingInstalled(ctx context.Context, w io.Writer) error {
	return withAccounting().Ensure(ctx, w)
}

// EnsureRESTInstalled is EnsureInstalled for a cluster with REST.
func EnsureRESTInstalled(ctx context.Context, w io.Writer) error { return withREST().Ensure(ctx, w) }

// EnsureNetworksInstalled is EnsureInstalled for a cluster with Networks.
func EnsureNetworksInstalled(ctx context.Context, w io.Writer) error {
	return withNetworks().Ensure(ctx, w)
}

func lastLines(out []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
