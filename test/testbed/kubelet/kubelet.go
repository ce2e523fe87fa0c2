// Package kubelet runs a real kubelet with containerd and runc on this machine,
// as one more node of a testbed's control plane. Tests compare what it does
// with what a virtual node does.
//
// Pods get a network of their own. containerd lives in a network namespace that
// a pair of virtual interfaces joins to the machine's; kubelet and containerd
// share a mount namespace. Both namespaces end with the last process in them,
// and all mounts and interfaces with them: nothing outlives the processes but
// empty control groups, which Clean removes.
package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// Names of the processes.
const (
	holderName     = "node-namespaces"
	containerdName = "containerd"
	kubeletName    = "kubelet"
)

// readyTimeout bounds the wait for each program.
const readyTimeout = time.Minute

// PauseImage is the image of pod sandboxes; it must be imported before pods start.
const PauseImage = "isthmus.test/pause:1"

// Config of a node.
type Config struct {
	// Dir holds everything it keeps. Its path is short, since it holds a socket.
	Dir string
	// Node is the name of the node.
	Node string
	// ControlPlane is the one to join.
	ControlPlane *controlplane.ControlPlane
	// Processes to start the programs in; the caller ends the group, and calls
	// Clean when the processes are gone.
	Processes *process.Group
	// Labels and Taints of the node, as the kubelet's flags want them: key=value
	// and key=value:Effect.
	Labels, Taints string
	Progress       io.Writer
}

// Kubelet is a running node.
type Kubelet struct {
	config Config
	place  place
	holder *process.Process
	paths  map[string]string // of programs
}

// Start installs and builds what is missing and returns once containerd and the
// kubelet answer. The node object appears soon after; it is Ready once images
// can be run.
func Start(ctx context.Context, config Config) (*Kubelet, error) {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	if err := EnsureInstalled(ctx, config.Progress); err != nil {
		return nil, err
	}
	k := &Kubelet{config: config, paths: map[string]string{}}
	for _, name := range software().Programs {
		path, err := debian.Find(name)
		if err != nil {
			return nil, fmt.Errorf("start node: %w", err)
		}
		k.paths[name] = path
	}
	for _, d := range []string{"", "pki", "cni", "plugins", "pods", "manifests", "kubelet"} {
		if err := os.MkdirAll(filepath.Join(config.Dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("start node: %w", err)
		}
	}
	for _, step := range []func(context.Context) error{k.hold, k.connect, k.mountPrivate, k.makeGroups, k.startContainerd, k.startKubelet} {
		if err := step(ctx); err != nil {
			return nil, fmt.Errorf("start node: %w", err)
		}
	}
	return k, nil
}

func (k *Kubelet) path(elem ...string) string {
	return filepath.Join(append([]string{k.config.Dir}, elem...)...)
}

func (k *Kubelet) socket() string { return k.path("containerd.sock") }

// run runs a command to its end.
func (k *Kubelet) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, k.paths[program], args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", program, args, err, bytes.TrimSpace(out))
	}
	return nil
}

// inside gives the words that run a program in the holder's namespaces.
func (k *Kubelet) inside(flags ...string) []string {
	return append([]string{"--target=" + strconv.Itoa(k.holder.PID)}, flags...)
}

// hold starts the process that owns the namespaces.
func (k *Kubelet) hold(ctx context.Context) error {
	sleep, err := debian.Find("sleep")
	if err != nil {
		return err
	}
	k.holder, err = k.config.Processes.Start(process.Spec{
		Name: holderName, Argv: []string{k.paths["unshare"], "--mount", "--net", "--propagation=private", sleep, "infinity"},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return k.holder.WaitReady(ctx, func(context.Context) error {
		// Once it is the other program, the namespaces are made.
		exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(k.holder.PID), "exe"))
		if err != nil {
			return err
		}
		if want, err := filepath.EvalSymlinks(sleep); err != nil || exe != want {
			return errors.Join(err, errors.New("unshare still runs"))
		}
		return nil
	})
}

// mountPrivate hides the machine's directories that the programs would write
// to and that cannot be configured.
func (k *Kubelet) mountPrivate(ctx context.Context) error {
	for _, dir := range []string{"/run/containerd", "/var/log"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		args := append(k.inside("--mount"), "mount", "-t", "tmpfs", "-o", "mode=0755", "isthmus", dir)
		if err := k.run(ctx, "nsenter", args...); err != nil {
			return err
		}
	}
	return nil
}

func (k *Kubelet) startContainerd(ctx context.Context) error {
	if err := errors.Join(
		writeFile(k.path("containerd.toml"), k.containerdConfig()),
		writeFile(k.path("cni", "10-pods.conflist"), k.networkConfig()),
	); err != nil {
		return err
	}
	p, err := k.config.Processes.Start(process.Spec{
		Name: containerdName,
		Argv: append(append([]string{k.paths["nsenter"]}, k.inside("--mount", "--net")...),
			k.paths["containerd"], "--config", k.path("containerd.toml")),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return p.WaitReady(ctx, func(ctx context.Context) error { return k.ctr(ctx, "version") })
}

// ctr runs containerd's client.
func (k *Kubelet) ctr(ctx context.Context, args ...string) error {
	return k.run(ctx, "ctr", append([]string{"--address", k.socket(), "--namespace", "k8s.io"}, args...)...)
}

// Import loads an archive of images, which the kubelet then need not pull.
func (k *Kubelet) Import(ctx context.Context, archive string) error {
	return k.ctr(ctx, "images", "import", archive)
}

func (k *Kubelet) startKubelet(ctx context.Context) error {
	program, err := controlplane.EnsureKubelet(ctx, k.config.Progress)
	if err != nil {
		return err
	}
	kubeconfig, err := k.config.ControlPlane.Kubeconfig("system:node:"+k.config.Node, "system:nodes")
	if err != nil {
		return err
	}
	cert, key, err := k.config.ControlPlane.IssueServing("kubelet-"+k.config.Node, k.place.near())
	if err != nil {
		return err
	}
	port, err := freePort(k.place.near())
	if err != nil {
		return err
	}
	if err := errors.Join(
		writeFile(k.path("kubelet.yaml"), k.kubeletConfig(cert, key, port)),
		writeFile(k.path("resolv.conf"), "nameserver "+k.place.near()+"\n"),
	); err != nil {
		return err
	}
	p, err := k.config.Processes.Start(process.Spec{
		Name: kubeletName,
		Argv: append(append([]string{k.paths["nsenter"]}, k.inside("--mount")...), program,
			"--config="+k.path("kubelet.yaml"), "--kubeconfig="+kubeconfig,
			"--hostname-override="+k.config.Node, "--node-ip="+k.place.near(),
			"--root-dir="+k.path("kubelet"), "--cert-dir="+k.path("pki"), "--node-labels="+k.config.Labels,
			"--register-with-taints="+k.config.Taints, "--v=2",
		),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second}
	url := "http://" + net.JoinHostPort(k.place.near(), strconv.Itoa(port+1)) + "/healthz"
	return p.WaitReady(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz says %s", res.Status)
		}
		return nil
	})
}

// freePort finds a port that is free, with the next one, on an address that is ours alone.
func freePort(address string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port &^ 1, nil
}

func writeFile(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }
