package controlplane

import (
	"context"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// Names of the processes.
const (
	etcdName      = "etcd"
	apiserverName = "kube-apiserver"
	managerName   = "kube-controller-manager"
)

// readyTimeout bounds the wait for each program; a loaded machine with two
// cores needs a few seconds.
const readyTimeout = 90 * time.Second

const loopback = "127.0.0.1"

func (c *ControlPlane) startAll(ctx context.Context) error {
	steps := []func(context.Context) error{c.startEtcd, c.StartAPIServer}
	if !c.config.WithoutControllerManager {
		steps = append(steps, c.startManager)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (c *ControlPlane) program(name string) string { return filepath.Join(c.assets, name) }

func (c *ControlPlane) startEtcd(ctx context.Context) error {
	serving, err := c.etcd.issue(c.pki(), "etcd-serving", pkix.Name{CommonName: "etcd"}, loopback, "localhost")
	if err != nil {
		return err
	}
	if _, err := c.etcd.issue(c.pki(), "etcd-client", pkix.Name{CommonName: "kube-apiserver"}); err != nil {
		return err
	}
	url := "https://" + net.JoinHostPort(loopback, strconv.Itoa(c.ports.etcd))
	peer := "https://" + net.JoinHostPort(loopback, strconv.Itoa(c.ports.peer)) // one member: nobody calls it
	p, err := c.processes.Start(process.Spec{
		Name: etcdName,
		Argv: []string{
			c.program(etcdName),
			"--name=isthmus", "--data-dir=" + filepath.Join(c.dir, "etcd"),
			"--listen-client-urls=" + url, "--advertise-client-urls=" + url,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=isthmus=" + peer,
			"--cert-file=" + serving.cert, "--key-file=" + serving.key,
			"--client-cert-auth", "--trusted-ca-file=" + c.etcd.file,
			"--peer-cert-file=" + serving.cert, "--peer-key-file=" + serving.key,
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + c.etcd.file,
			"--unsafe-no-fsync", "--log-level=warn",
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// The API server waits for etcd itself; here only the port race matters.
	dialer := net.Dialer{Timeout: time.Second}
	return p.WaitReady(ctx, func(ctx context.Context) error {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(loopback, strconv.Itoa(c.ports.etcd)))
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// StartAPIServer starts kube-apiserver, on the same port as before, and waits
// until it is ready. Start has done so; it is for tests that end the API server
// with StopAPIServer to see what others make of the outage.
func (c *ControlPlane) StartAPIServer(ctx context.Context) error {
	serving, err := c.cluster.issue(c.pki(), "apiserver-serving", pkix.Name{CommonName: "kube-apiserver"},
		loopback, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1")
	if err != nil {
		return err
	}
	toKubelet, err := c.cluster.issue(c.pki(), "apiserver-to-kubelet",
		pkix.Name{CommonName: "isthmus-testbed:kube-apiserver", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	toExtensions, err := c.proxy.issue(c.pki(), "front-proxy-client", pkix.Name{CommonName: "front-proxy-client"})
	if err != nil {
		return err
	}
	argv := []string{
		c.program(apiserverName),
		"--etcd-servers=https://" + net.JoinHostPort(loopback, strconv.Itoa(c.ports.etcd)),
		"--etcd-cafile=" + c.etcd.file,
		"--etcd-certfile=" + filepath.Join(c.pki(), "etcd-client.crt"), "--etcd-keyfile=" + filepath.Join(c.pki(), "etcd-client.key"),
		"--bind-address=" + loopback, "--advertise-address=" + loopback, "--secure-port=" + strconv.Itoa(c.ports.apiserver),
		"--tls-cert-file=" + serving.cert, "--tls-private-key-file=" + serving.key,
		"--client-ca-file=" + c.cluster.file,
		"--authorization-mode=RBAC", "--anonymous-auth=false",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.serviceAccountKey(), "--service-account-signing-key-file=" + c.serviceAccountKey(),
		"--service-cluster-ip-range=10.96.0.0/16",
		// Logs and exec go to kubelets by TLS that is verified in both directions.
		"--kubelet-certificate-authority=" + c.kubelet.file,
		"--kubelet-client-certificate=" + toKubelet.cert, "--kubelet-client-key=" + toKubelet.key,
		"--kubelet-preferred-address-types=InternalIP,Hostname",
		// Extension API servers learn from it whom it speaks for.
		"--requestheader-client-ca-file=" + c.proxy.file, "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + toExtensions.cert, "--proxy-client-key-file=" + toExtensions.key,
		"--allow-privileged=true", "--profiling=false",
		// A loopback address may not be an endpoint of the service "kubernetes".
		"--endpoint-reconciler-type=none",
	}
	if c.config.WithoutControllerManager {
		// Nobody makes the service accounts that this plugin waits for.
		argv = append(argv, "--disable-admission-plugins=ServiceAccount")
	}
	p, err := c.processes.Start(process.Spec{Name: apiserverName, Argv: append(argv, c.config.APIServerArgs...)})
	if err != nil {
		return err
	}
	if c.admin == nil || c.admin.Host != c.server {
		if err := c.makeAdmin(); err != nil {
			return err
		}
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return p.WaitReady(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		return err
	})
}

// StopAPIServer ends kube-apiserver and nothing else.
func (c *ControlPlane) StopAPIServer() error {
	if p := c.processes.Find(apiserverName); p != nil {
		return p.Stop(stopGrace)
	}
	return nil
}

func (c *ControlPlane) makeAdmin() error {
	const user = "isthmus-testbed:admin"
	p, err := c.cluster.issue(c.pki(), "admin", pkix.Name{CommonName: user, Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	if err := c.writeKubeconfig(c.kubeconfig, user, p); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	c.admin = config
	return nil
}

func (c *ControlPlane) client() (*kubernetes.Clientset, error) {
	config := rest.CopyConfig(c.admin)
	config.Timeout = 5 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

func (c *ControlPlane) startManager(ctx context.Context) error {
	kubeconfig, err := c.Kubeconfig("system:kube-controller-manager")
	if err != nil {
		return err
	}
	serving, err := c.cluster.issue(c.pki(), "manager-serving", pkix.Name{CommonName: managerName}, loopback)
	if err != nil {
		return err
	}
	argv := []string{
		c.program(managerName),
		"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
		"--bind-address=" + loopback, "--secure-port=" + strconv.Itoa(c.ports.manager),
		"--tls-cert-file=" + serving.cert, "--tls-private-key-file=" + serving.key,
		"--leader-elect=false", "--use-service-account-credentials=true", "--profiling=false",
		"--service-account-private-key-file=" + c.serviceAccountKey(), "--root-ca-file=" + c.cluster.file,
		// Kubelets' own certificates come from the authority that the API server
		// trusts kubelets by, clients' from the other.
		"--cluster-signing-kubelet-serving-cert-file=" + c.kubelet.file,
		"--cluster-signing-kubelet-serving-key-file=" + filepath.Join(c.pki(), "kubelet-ca.key"),
		"--cluster-signing-kubelet-client-cert-file=" + c.cluster.file,
		"--cluster-signing-kubelet-client-key-file=" + filepath.Join(c.pki(), "cluster-ca.key"),
		"--cluster-signing-kube-apiserver-client-cert-file=" + c.cluster.file,
		"--cluster-signing-kube-apiserver-client-key-file=" + filepath.Join(c.pki(), "cluster-ca.key"),
		// No volumes are attached here; the controller would look for plugins in system folders.
		"--controllers=*,-persistentvolume-attach-detach-controller,-persistentvolume-expander-controller",
	}
	p, err := c.processes.Start(process.Spec{Name: managerName, Argv: append(argv, c.config.ControllerManagerArgs...)})
	if err != nil {
		return err
	}
	client, err := c.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// The first thing anyone needs of it: pods cannot be made without a service account.
	return p.WaitReady(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("service account default/default is not there yet")
		}
		return err
	})
}
