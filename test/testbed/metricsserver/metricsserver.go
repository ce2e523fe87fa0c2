// Package metricsserver builds metrics-server, the one of Kubernetes' own
// project, from a pinned module and runs it against a control plane of the
// testbed, so that `kubectl top` answers as it does for users.
package metricsserver

import (
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// Version is the release that the pins in test/testbed/metricsserver/module give.
const Version = "v0.9.0"

// user is whom metrics-server acts as.
const user = "testbed:metrics-server"

// host is under which name the API server calls it.
const host = "metrics-server.kube-system.svc"

//go:embed objects.yaml
var objects string

// EnsureBuilt builds metrics-server when it is missing or the pins changed, and
// returns its path.
func EnsureBuilt(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := checkout.Tools{
		Name: "metrics-server", Version: Version, Module: "test/testbed/metricsserver/module", Expect: "one minute after the control plane",
		Programs: map[string]string{"metrics-server": "sigs.k8s.io/metrics-server/cmd/metrics-server"},
	}.EnsureBuilt(ctx, progress)
	return filepath.Join(dir, "metrics-server"), err
}

// Start starts metrics-server in a process group and returns its process and the
// objects that it needs, as YAML: its rights, and the API service, which is to be
// deleted before the process is ended, since an API group that does not answer
// keeps namespaces from being deleted.
func Start(ctx context.Context, c *controlplane.ControlPlane, processes *process.Group, progress io.Writer) (*process.Process, []byte, error) {
	program, err := EnsureBuilt(ctx, progress)
	if err != nil {
		return nil, nil, err
	}
	kubeconfig, err := c.Kubeconfig(user)
	if err != nil {
		return nil, nil, err
	}
	cert, key, err := c.IssueServing("metrics-server", host)
	if err != nil {
		return nil, nil, err
	}
	authority, err := os.ReadFile(c.KubeletCAFile())
	if err != nil {
		return nil, nil, fmt.Errorf("read the authority of serving certificates: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("find a free port: %w", err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	if err := listener.Close(); err != nil {
		return nil, nil, fmt.Errorf("find a free port: %w", err)
	}
	p, err := processes.Start(process.Spec{Name: "metrics-server", Argv: []string{
		program, "--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--tls-cert-file=" + cert, "--tls-private-key-file=" + key,
		// As its own manifest has them; the certificate of the nodes is verified.
		"--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname", "--kubelet-use-node-status-port",
		"--kubelet-certificate-authority=" + c.KubeletCAFile(),
		"--metric-resolution=15s",
	}})
	if err != nil {
		return nil, nil, err
	}
	yaml := strings.NewReplacer("PORT", port, "USER", user, "AUTHORITY", base64.StdEncoding.EncodeToString(authority)).Replace(objects)
	return p, []byte(yaml), nil
}
