package controlplane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"

	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// TestControlPlane starts one and looks at it as its users do: with kubectl,
// with a client of few rights, and as a kubelet that the API server calls.
func TestControlPlane(t *testing.T) {
	dir := t.TempDir()
	c, err := controlplane.Start(t.Context(), controlplane.Config{Dir: dir, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		left, err := process.Belonging(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("after Stop: %v still run, error %v", left, err)
		}
	})
	t.Run("kubectl reports the pinned version", func(t *testing.T) {
		out, err := exec.Command(c.Kubectl(), "--kubeconfig", c.KubeconfigFile(), "version").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Server Version: "+controlplane.Version) {
			t.Errorf("kubectl version: %v\n%s", err, out)
		}
	})
	t.Run("an identity may do what RBAC grants it", func(t *testing.T) { fewRights(t, c) })
	t.Run("kubectl logs reaches a kubelet over verified TLS", func(t *testing.T) { kubeletLogs(t, c) })
	t.Run("the API server comes back at the same address", func(t *testing.T) {
		if err := c.StopAPIServer(); err != nil {
			t.Fatal(err)
		}
		if err := c.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func fewRights(t *testing.T, c *controlplane.ControlPlane) {
	file, err := c.Kubeconfig("system:someone", "some-group")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("listing nodes without a grant gave %v, want forbidden", err)
	}
}

// kubeletLogs registers a node whose kubelet is this test, with a pod bound to it.
func kubeletLogs(t *testing.T, c *controlplane.ControlPlane) {
	cert, key, err := c.IssueServing("test-kubelet", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	port := serveKubelet(t, c, cert, key)
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "tested"}}
	if node, err = client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { // controllers write to it, too
		if node, err = client.CoreV1().Nodes().Get(t.Context(), node.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = port
		_, err := client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "tested"},
		Spec:       corev1.PodSpec{NodeName: "tested", Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(c.Kubectl(), "--kubeconfig", c.KubeconfigFile(), "logs", "tested").CombinedOutput()
	if err != nil || string(out) != "asked by isthmus-testbed:kube-apiserver for /containerLogs/default/tested/main\n" {
		t.Errorf("kubectl logs: %v\n%s", err, out)
	}
}

func serveKubelet(t *testing.T, c *controlplane.ControlPlane, cert, key string) int32 {
	ca, err := os.ReadFile(c.ClusterCAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
			ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte("asked by " + r.TLS.PeerCertificates[0].Subject.CommonName + " for " + r.URL.Path + "\n"))
		}),
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	port, err := strconv.Atoi(strings.TrimPrefix(listener.Addr().String(), "127.0.0.1:"))
	if err != nil {
		t.Fatal(err)
	}
	return int32(port)
}

// TestStartCancelled ends the wait at once and leaves nothing.
func TestStartCancelled(t *testing.T) {
	if _, err := controlplane.EnsureBuilt(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := controlplane.Start(ctx, controlplane.Config{Dir: dir}); err == nil {
		t.Fatal("started within a second")
	}
	left, err := process.Belonging(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("%v still run, error %v", left, err)
	}
}
