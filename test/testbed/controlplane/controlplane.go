// Package controlplane runs a real Kubernetes control plane on this machine:
// etcd, kube-apiserver and kube-controller-manager, all on loopback, all with
// TLS and client certificates, and RBAC for everyone but the administrator.
//
// It knows nothing of Isthmus.
package controlplane

import (
	"context"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// stopGrace is how long a program gets to end by itself. kube-apiserver would wait
// for its watches for a minute; nothing here is worth that.
const stopGrace = 3 * time.Second

// Config of a control plane.
type Config struct {
	// Dir holds everything: keys, data, logs, process records. It is created 0700.
	Dir string
	// Processes to start the programs in; nil is a tethered group of its own in Dir.
	Processes *process.Group
	// WithoutControllerManager leaves kube-controller-manager out: no garbage
	// collection, no service accounts, no namespace deletion.
	WithoutControllerManager bool
	// APIServerArgs and ControllerManagerArgs are added to the programs' flags.
	APIServerArgs, ControllerManagerArgs []string
	// Progress tells people what is waited for; nil is silence.
	Progress io.Writer
}

// ControlPlane is a running control plane.
type ControlPlane struct {
	dir        string
	assets     string
	processes  *process.Group
	own        bool // processes is ours to end
	cluster    *authority
	kubelet    *authority
	etcd       *authority
	proxy      *authority
	server     string // URL
	ports      ports
	config     Config
	kubeconfig string
	admin      *rest.Config
}

type ports struct{ etcd, peer, apiserver, manager int }

// Start builds the programs when needed, starts them and returns once the API
// server and the controllers are ready, in about 10 s. When it fails or ctx
// ends, nothing is left running if it made the process group itself; else
// ending the group is the caller's part.
func Start(ctx context.Context, config Config) (_ *ControlPlane, err error) {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	assets, err := EnsureBuilt(ctx, config.Progress)
	if err != nil {
		return nil, err
	}
	c, err := prepare(config, assets)
	if err != nil {
		return nil, err
	}
	if c.processes == nil {
		if c.processes, err = process.Open(c.dir, process.Options{Tether: true}); err != nil {
			return nil, err
		}
		c.own = true
		defer func() {
			if err != nil {
				err = errors.Join(err, c.processes.StopAll(stopGrace))
			}
		}()
	}
	if err := c.startWithPorts(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// prepare makes the directories, authorities and keys.
func prepare(config Config, assets string) (*ControlPlane, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("prepare control plane: %w", err)
	}
	c := &ControlPlane{dir: dir, assets: assets, processes: config.Processes, config: config}
	for _, d := range []string{dir, c.pki()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("prepare control plane: %w", err)
		}
	}
	c.kubeconfig = filepath.Join(dir, "kubeconfig")
	for name, a := range map[string]**authority{"cluster-ca": &c.cluster, "kubelet-ca": &c.kubelet, "etcd-ca": &c.etcd, "front-proxy-ca": &c.proxy} {
		if *a, err = newAuthority(c.pki(), name); err != nil {
			return nil, err
		}
	}
	if _, err := newKey(c.serviceAccountKey()); err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	return c, nil
}

func (c *ControlPlane) pki() string { return filepath.Join(c.dir, "pki") }
func (c *ControlPlane) serviceAccountKey() string {
	return filepath.Join(c.pki(), "service-accounts.key")
}

// startWithPorts starts everything on ports that were free a moment ago. Should
// another program have taken one meanwhile, it starts over with others.
func (c *ControlPlane) startWithPorts(ctx context.Context) error {
	const attempts = 4
	for attempt := 1; ; attempt++ {
		err := c.pickPorts()
		if err == nil {
			err = c.startAll(ctx)
		}
		if err == nil || attempt == attempts || !errors.Is(err, process.ErrExited) {
			return err
		}
		for _, name := range []string{managerName, apiserverName, etcdName} {
			if p := c.processes.Find(name); p != nil {
				if err := p.Stop(stopGrace); err != nil {
					return err
				}
			}
		}
	}
}

func (c *ControlPlane) pickPorts() error {
	free := make([]int, 4)
	for i := range free {
		// All are held until the last is known, so that they differ.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }()
		free[i] = l.Addr().(*net.TCPAddr).Port
	}
	c.ports = ports{etcd: free[0], peer: free[1], apiserver: free[2], manager: free[3]}
	c.server = "https://127.0.0.1:" + strconv.Itoa(c.ports.apiserver)
	return nil
}

// Stop ends what Start started, the last program first, and returns once all
// are gone. It may be repeated. In a caller's process group it ends only the
// control plane.
func (c *ControlPlane) Stop() error {
	if c.own {
		return c.processes.StopAll(stopGrace)
	}
	var errs []error
	for _, name := range []string{managerName, apiserverName, etcdName} {
		if p := c.processes.Find(name); p != nil {
			errs = append(errs, p.Stop(stopGrace))
		}
	}
	return errors.Join(errs...)
}

// KubeconfigFile is the administrator's (group system:masters).
func (c *ControlPlane) KubeconfigFile() string { return c.kubeconfig }

// RESTConfig is the administrator's; the caller may change its copy.
func (c *ControlPlane) RESTConfig() *rest.Config { return rest.CopyConfig(c.admin) }

// Kubectl is the path of the built kubectl.
func (c *ControlPlane) Kubectl() string { return filepath.Join(c.assets, "kubectl") }

// Server is the API server's URL.
func (c *ControlPlane) Server() string { return c.server }

// ClusterCAFile holds the authority that signs the API server's certificate and
// everyone's client certificates, the API server's own towards kubelets
// (user "isthmus-testbed:kube-apiserver") among them: a kubelet verifies its callers with it.
func (c *ControlPlane) ClusterCAFile() string { return c.cluster.file }

// KubeletCAFile holds the authority that signs kubelets' serving certificates.
func (c *ControlPlane) KubeletCAFile() string { return c.kubelet.file }

// IssueServing makes a serving certificate for a kubelet, which the API server
// trusts when it calls the kubelet at one of the hosts (names or addresses).
func (c *ControlPlane) IssueServing(name string, hosts ...string) (certFile, keyFile string, err error) {
	if len(hosts) == 0 {
		return "", "", fmt.Errorf("issue certificate %s: no hosts", name)
	}
	p, err := c.kubelet.issue(c.pki(), name, pkix.Name{CommonName: name}, hosts...)
	return p.cert, p.key, err
}

// Kubeconfig makes an identity with a client certificate and writes a
// kubeconfig file for it. It may do what RBAC grants the user and the groups.
func (c *ControlPlane) Kubeconfig(user string, groups ...string) (string, error) {
	name := fileName(user)
	p, err := c.cluster.issue(c.pki(), "user-"+name, pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		return "", err
	}
	file := KubeconfigFileOf(c.dir, user)
	return file, c.writeKubeconfig(file, user, p)
}

// KubeconfigFileOf is where Kubeconfig of a control plane in dir puts the file.
func KubeconfigFileOf(dir, user string) string {
	return filepath.Join(dir, "kubeconfig-"+fileName(user))
}

// fileName makes a user name such as system:isthmus:vnode fit for a file.
func fileName(user string) string {
	out := []rune(user)
	for i, r := range out {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			out[i] = '-'
		}
	}
	return string(out)
}

// writeKubeconfig writes certificates into the file itself, so that it works
// wherever it is copied to.
func (c *ControlPlane) writeKubeconfig(file, user string, p pair) error {
	var read []byte
	var errs []error
	get := func(path string) []byte {
		raw, err := os.ReadFile(path)
		errs = append(errs, err)
		read = raw
		return read
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["isthmus"] = &clientcmdapi.Cluster{Server: c.server, CertificateAuthorityData: get(c.cluster.file)}
	config.AuthInfos[user] = &clientcmdapi.AuthInfo{
		ClientCertificateData: get(p.cert), ClientKeyData: get(p.key),
	}
	config.Contexts["isthmus"] = &clientcmdapi.Context{Cluster: "isthmus", AuthInfo: user, Namespace: "default"}
	config.CurrentContext = "isthmus"
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
