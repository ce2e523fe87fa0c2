package kubeletapi_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// issue makes a certificate for a user, or for the server when user is "".
func (a authority) issue(t *testing.T, user string, until time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: user},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if user == "" {
		template.Subject.CommonName, template.IPAddresses = "system:node:c-gpu", []net.IP{net.IPv4(127, 0, 0, 1)}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// rights maps a user to what they may do on nodes: "subresource" for all nodes
// or "subresource/node" for one.
var rights = map[string][]string{
	"full":     {"proxy", "stats", "metrics", "log", "checkpoint", "configz", "pods", "healthz"},
	"reader":   {"pods", "healthz", "stats", "metrics"},
	"mine":     {"proxy/c-gpu"},
	"other":    {"proxy/c-cpu", "pods/c-cpu", "stats/c-cpu"},
	"norights": nil,
}

// reviewer is the part of an API server that reviews tokens and access.
type reviewer struct {
	mu   sync.Mutex
	down bool
	seen []authorizationv1.ResourceAttributes
}

func (v *reviewer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	var answer any
	switch r.URL.Path {
	case "/apis/authentication.k8s.io/v1/tokenreviews":
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if user, ok := map[string]string{"token-full": "full", "token-reader": "reader"}[review.Spec.Token]; ok {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: user}}
		}
		answer = &review
	case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a := review.Spec.ResourceAttributes
		if a != nil && a.Resource == "nodes" {
			v.seen = append(v.seen, *a)
			may := rights[review.Spec.User]
			review.Status.Allowed = slices.Contains(may, a.Subresource) || (a.Name != "" && slices.Contains(may, a.Subresource+"/"+a.Name))
		}
		answer = &review
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

// store is a PodSource.
type store []*corev1.Pod

func (s store) Pods() []*corev1.Pod { return s }

func (s store) Pod(namespace, name string) (*corev1.Pod, bool) {
	for _, p := range s {
		if p.Namespace == namespace && p.Name == name {
			return p, true
		}
	}
	return nil, false
}

// reader is a Logs made of a function.
type reader func(ctx context.Context, pod *corev1.Pod, container string, o kubeletapi.LogOptions, w io.Writer) error

func (f reader) ContainerLogs(ctx context.Context, pod *corev1.Pod, container string, o kubeletapi.LogOptions, w io.Writer) error {
	return f(ctx, pod, container, o, w)
}

func running(name string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func pods() store {
	restarted := running("restarted")
	restarted.RestartCount = 1
	restarted.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1}
	return store{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "p", UID: "u0"},
		Spec:       corev1.PodSpec{NodeName: "c-gpu", Containers: []corev1.Container{{Name: "main"}, {Name: "waits"}, {Name: "restarted"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			running("main"),
			{Name: "waits", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "Queued"}}},
			restarted,
		}},
	}}
}

// fixture is a served API with a reviewer behind it.
type fixture struct {
	t        *testing.T
	url      string
	ca       authority
	wrongCA  authority
	review   *reviewer
	shutdown func() error
	config   kubeletapi.Config
	streams  *echo
}

func serve(t *testing.T, logs kubeletapi.Logs) *fixture {
	t.Helper()
	f := &fixture{t: t, ca: newAuthority(t, "clients"), wrongCA: newAuthority(t, "clients"), review: &reviewer{}}
	api := httptest.NewServer(f.review)
	t.Cleanup(api.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: api.URL, QPS: -1}, &http.Client{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certPEM, keyPEM := f.ca.issue(t, "", time.Now().Add(time.Hour))
	f.config = kubeletapi.Config{
		Metrics:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "measured 1\n") }),
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), ClientCAFile: filepath.Join(dir, "ca.crt"), Client: client,
	}
	for path, body := range map[string][]byte{f.config.CertFile: certPEM, f.config.KeyFile: keyPEM, f.config.ClientCAFile: f.ca.pem()} {
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.streams = &echo{}
	s, err := kubeletapi.New(f.config, kubeletapi.Sources{Pods: pods(), Logs: logs, Streams: f.streams, Usage: used{}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.url = "https://" + l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	f.shutdown = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			t.Error("the server does not stop")
			return nil
		}
	})
	t.Cleanup(func() {
		if err := f.shutdown(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return f
}

// identity is who asks.
type identity struct {
	user    string // of a client certificate
	wrongCA bool
	expired bool
	token   string
}

// client gives an HTTP client of that identity.
func (f *fixture) client(id identity) *http.Client {
	f.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(f.ca.cert)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if id.user != "" {
		ca, until := f.ca, time.Now().Add(time.Hour)
		if id.wrongCA {
			ca = f.wrongCA
		}
		if id.expired {
			until = time.Now().Add(-time.Hour)
		}
		certPEM, keyPEM := ca.issue(f.t, id.user, until)
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			f.t.Fatal(err)
		}
		// Sent whatever the server says it would take.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	transport := &http.Transport{TLSClientConfig: config}
	f.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func (f *fixture) do(c *http.Client, id identity, method, path string) (int, string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if protocol := protocolOf(path); protocol != "" { // and no Upgrade: what comes of that is told apart by its code
		req.Header.Set("X-Stream-Protocol-Version", protocol)
	}
	if id.token != "" {
		req.Header.Set("Authorization", "Bearer "+id.token)
	}
	resp, err := c.Do(req)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp.StatusCode, string(body)
}
