package kubelet

import (
	"context"
	"io"

	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// pluginDir is where Debian puts the CNI plugins.
const pluginDir = "/usr/lib/cni"

func software() debian.Software {
	return debian.Software{
		Programs: []string{
			"containerd", "containerd-shim-runc-v2", "ctr", "runc", "ip", "nsenter", "unshare",
			pluginDir + "/ptp", pluginDir + "/host-local", pluginDir + "/loopback",
		},
		Packages: []string{"containerd", "runc", "containernetworking-plugins", "iproute2", "util-linux"},
	}
}

// EnsureInstalled builds the kubelet and installs containerd, runc and the CNI
// plugins where they are missing. It needs root and the network then.
func EnsureInstalled(ctx context.Context, w io.Writer) error {
	if err := software().Ensure(ctx, w); err != nil {
		return err
	}
	_, err := controlplane.EnsureKubelet(ctx, w)
	return err
}
