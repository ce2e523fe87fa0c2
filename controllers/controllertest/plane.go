// Package controllertest gives the tests of the controllers a real API server
// with the project's CRDs, and players for the parts that are not there: a
// scheduler that admits and binds, and a kubelet that runs pods by a script.
//
// It is for tests only and imports no controller.
package controllertest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// kubernetesVersion names the folder with the built control plane.
const kubernetesVersion = "v1.37.2"

// Plane is a running API server with etcd, and optionally the garbage collector.
type Plane struct {
	// Config is the configuration of an administrator.
	Config *rest.Config
	// Scheme knows the types of Kubernetes, of Volcano and of ours.
	Scheme *kruntime.Scheme
	// Client reads and writes directly, without a cache.
	Client client.Client

	// Kubeconfig is the path of a kubeconfig of an administrator.
	Kubeconfig string

	env       *envtest.Environment
	tether    *tether
	directory string
	processes []*exec.Cmd
}

// Start starts a control plane for the tests of one package; it blocks until the
// CRDs are served. Call it from TestMain and Stop after the tests. Flags of the API
// server, NAME=VALUE, may be given.
func Start(flags ...string) (*Plane, error) {
	assets, err := assets()
	if err != nil {
		return nil, err
	}
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return nil, fmt.Errorf("find the source tree: no caller information")
	}
	p := &Plane{Scheme: kruntime.NewScheme()}
	for _, add := range []func(*kruntime.Scheme) error{clientgoscheme.AddToScheme, batch.AddToScheme, scheduling.AddToScheme, bus.AddToScheme, flow.AddToScheme, topology.AddToScheme, hpc.AddToScheme} {
		if err := add(p.Scheme); err != nil {
			return nil, fmt.Errorf("register types: %w", err)
		}
	}
	p.env = &envtest.Environment{
		BinaryAssetsDirectory:    assets,
		CRDDirectoryPaths:        []string{filepath.Join(filepath.Dir(file), "..", "..", "charts", "isthmus", "crds")},
		CRDInstallOptions:        envtest.CRDInstallOptions{MaxTime: 2 * time.Minute}, // 10 s are too few on a busy machine
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: 2 * time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}
	p.env.ControlPlane.GetAPIServer().Configure().Set("service-cluster-ip-range", "10.0.0.0/24")
	for _, f := range flags {
		name, value, _ := strings.Cut(f, "=")
		p.env.ControlPlane.GetAPIServer().Configure().Set(name, value)
	}
	if p.directory, err = os.MkdirTemp("", "isthmus-plane-"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	p.tether = newTether()
	if err := p.start(assets); err != nil {
		p.tether.release()
		_ = os.RemoveAll(p.directory)
		return nil, fmt.Errorf("start API server from %s: %w", assets, err)
	}
	p.Config.QPS = -1 // the API server is on this machine: no pauses on the client's side
	if p.Client, err = client.New(p.Config, client.Options{Scheme: p.Scheme}); err != nil {
		p.Stop()
		return nil, fmt.Errorf("make client: %w", err)
	}
	p.Kubeconfig = filepath.Join(p.directory, "kubeconfig")
	if err := os.WriteFile(p.Kubeconfig, p.env.KubeConfig, 0o600); err != nil {
		p.Stop()
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return p, nil
}

// start starts etcd and the API server, which end with this program.
func (p *Plane) start(assets string) (err error) {
	etcd := &envtest.Etcd{}
	p.env.ControlPlane.Etcd = etcd
	if etcd.Path, err = tethered(p.directory, filepath.Join(assets, "etcd")); err != nil {
		return err
	}
	if p.env.ControlPlane.GetAPIServer().Path, err = tethered(p.directory, filepath.Join(assets, "kube-apiserver")); err != nil {
		return err
	}
	p.tether.do(func() { p.Config, err = p.env.Start() })
	return err
}

// StartGarbageCollector runs the garbage collector of kube-controller-manager,
// so that objects go after their owners as in a real cluster.
func (p *Plane) StartGarbageCollector() error {
	return p.StartControllers("garbage-collector-controller")
}

// StartControllers runs controllers of kube-controller-manager by their names.
func (p *Plane) StartControllers(names ...string) error {
	assets, err := assets()
	if err != nil {
		return err
	}
	cmd := exec.Command(filepath.Join(assets, "kube-controller-manager"), "--kubeconfig="+p.Kubeconfig,
		"--controllers="+strings.Join(names, ","), "--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port=0",
		"--authentication-skip-lookup", "--kube-api-qps=500", "--kube-api-burst=1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.tether.do(func() { err = cmd.Start() })
	if err != nil {
		return fmt.Errorf("start controllers %v: %w", names, err)
	}
	p.processes = append(p.processes, cmd)
	return nil
}

// Stop ends everything that Start and StartControllers began.
func (p *Plane) Stop() {
	for _, cmd := range p.processes {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	if err := p.env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop control plane:", err)
	}
	p.tether.release()
	if p.directory != "" {
		_ = os.RemoveAll(p.directory)
	}
}

// assets is the folder with the built control plane: KUBEBUILDER_ASSETS, or the
// project's cache.
func assets() (string, error) {
	folder := os.Getenv("KUBEBUILDER_ASSETS")
	if folder == "" {
		root := os.Getenv("ISTHMUS_CACHE")
		if root == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", fmt.Errorf("find the cache directory: %w", err)
			}
			root = filepath.Join(home, ".cache", "isthmus")
		}
		folder = filepath.Join(root, "kubernetes-"+kubernetesVersion)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			return "", fmt.Errorf("the control plane for tests is not built (%s is missing): run `make prepare`", filepath.Join(folder, name))
		}
	}
	return folder, nil
}

// Namespace makes a new namespace and returns its name.
func (p *Plane) Namespace(t testing.TB) string {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := p.Client.Create(t.Context(), ns); err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	return ns.Name
}

// Eventually polls until check returns an empty text; otherwise the text says
// what is missing and fails the test after the deadline.
func Eventually(t testing.TB, within time.Duration, check func(context.Context) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	last := "never checked"
	for {
		if text := check(ctx); ctx.Err() == nil {
			if text == "" {
				return
			}
			last = text
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", within, last)
		case <-tick.C:
		}
	}
}
