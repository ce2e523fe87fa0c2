package environment

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// binaries are the paths of our programs.
type binaries struct{ podrun, vnode, scheduler, controllers, isthmus string }

// buildPrograms builds our programs from the checkout into the cache. Go's own
// cache makes that a matter of seconds when nothing changed.
func buildPrograms(ctx context.Context, progress io.Writer) (binaries, error) {
	root, err := checkout.Root()
	if err != nil {
		return binaries{}, err
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return binaries{}, err
	}
	dir := filepath.Join(cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return binaries{}, fmt.Errorf("make directory for programs: %w", err)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return binaries{}, err
	}
	defer unlock()
	began := time.Now()
	var b binaries
	for _, p := range []struct {
		name string
		path *string
	}{
		{"podrun", &b.podrun}, {"vnode", &b.vnode}, {"scheduler", &b.scheduler},
		{"controllers", &b.controllers}, {"isthmus", &b.isthmus},
	} {
		*p.path = filepath.Join(dir, p.name)
		build := checkout.GoBuild{Module: root, Package: "./cmd/" + p.name, Output: *p.path}
		if err := build.Run(ctx, progress, "building "+p.name); err != nil {
			return binaries{}, err
		}
	}
	fmt.Fprintf(progress, "  %5.1fs  programs built: podrun, vnode, scheduler, controllers, isthmus\n", time.Since(began).Seconds())
	return b, nil
}

// The programs are the service accounts of the chart, which says what they may
// do: a program that needs more fails in the tests before it fails at a user's.
const (
	chartNamespace  = "isthmus-system"
	serviceAccounts = "system:serviceaccount:" + chartNamespace + ":isthmus-"
	userControllers = serviceAccounts + "controllers"
	userScheduler   = serviceAccounts + "scheduler"
	userVnode       = serviceAccounts + "vnode"
)

// issueIdentities writes the kubeconfig files of the programs while the
// authorities are at hand.
func (e *Environment) issueIdentities(c *controlplane.ControlPlane) error {
	for _, user := range []string{userControllers, userScheduler, userVnode} {
		if _, err := c.Kubeconfig(user); err != nil {
			return err
		}
	}
	return nil
}

// kubeletHost is where the virtual kubelet listens.
const kubeletHost = "127.0.0.1"

// startPrograms starts the controllers, the scheduler and the virtual kubelet.
// Whether they are of use shows in the virtual nodes, which waitNodes awaits.
func (e *Environment) startPrograms(ctx context.Context, config Config, bins binaries) error {
	// The pod runner is run as the mapped user, who may not be able to enter the
	// checkout or our home directory.
	podrun := e.runner()
	if err := copyProgram(bins.podrun, podrun); err != nil {
		return err
	}
	if err := e.createCluster(ctx, config); err != nil {
		return err
	}
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	for _, s := range []process.Spec{
		{Name: "controllers", Argv: []string{
			bins.controllers, "--kubeconfig", e.kubeconfigOf(userControllers),
			"--leader-elect=false", "--metrics-bind-address=0", "--vnode-user", userVnode, "--hypernode-labels=e2e.isthmus.sh/rack,e2e.isthmus.sh/row",
			"--webhook-bind-address", e.webhook, "--webhook-namespace", chartNamespace,
		}},
		{Name: "scheduler", Argv: []string{
			bins.scheduler, "--kubeconfig", e.kubeconfigOf(userScheduler),
			"--leader-elect=false", "--metrics-bind-address=0", "--await-pod-groups=5s",
		}},
		{Name: "vnode", Argv: []string{
			bins.vnode, "--kubeconfig", e.kubeconfigOf(userVnode),
			"--cluster", ClusterName, "--podrun", podrun,
			"--kubelet-listen", listen, "--node-ip", kubeletHost,
			"--cert-dir", filepath.Join(e.Dir, "kubelet-pki"),
			"--local-state-dir", filepath.Join(e.Shared, "local-state"),
		}},
	} {
		if _, err := e.programs.Start(s); err != nil {
			return err
		}
	}
	return nil
}

// freeAddress is a port of loopback that nobody has.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(kubeletHost, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	if err := listener.Close(); err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), nil
}

func (e *Environment) kubeconfigOf(user string) string {
	return controlplane.KubeconfigFileOf(planeDir(e.Dir), user)
}

// copyProgram puts a program into the place of another one that may run.
func copyProgram(from, to string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	next := to + ".new"
	if err := os.WriteFile(next, raw, 0o755); err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	// The umask may have taken away what other users need.
	if err := os.Chmod(next, 0o755); err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	if err := os.Rename(next, to); err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	return nil
}
