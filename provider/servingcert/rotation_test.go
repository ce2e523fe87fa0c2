package servingcert_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/certificate"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/servingcert"
)

const node = "hpc-a100"

// site plays the approver, which is the real one, and the signer of a cluster.
type site struct {
	t      *testing.T
	plane  *controllertest.Plane
	client kubernetes.Interface
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey

	approves, signs atomic.Bool
	left            atomic.Int64 // of the certificates that are signed, in seconds
	serial, denied  atomic.Int64
	approver        *certificate.Reconciler
}

func newSite(t *testing.T) *site {
	t.Helper()
	plane, err := controllertest.Start()
	if err != nil {
		t.Skipf("SKIP: no API server: %v", err)
	}
	t.Cleanup(plane.Stop)
	s := &site{t: t, plane: plane}
	transport, err := rest.TransportFor(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	if s.client, err = kubernetes.NewForConfigAndClient(plane.Config, &http.Client{Transport: transport}); err != nil {
		t.Fatal(err)
	}
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "site"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &s.key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	me, err := s.client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.approver = &certificate.Reconciler{Client: plane.Client, Live: plane.Client, Requesters: []string{me.Status.UserInfo.Username}, Signer: certificatesv1.KubeletServingSignerName, Now: time.Now}
	object := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{wellknown.VirtualNode: "true"}},
		Spec:       corev1.NodeSpec{ProviderID: wellknown.ProviderIDScheme + "hpc/" + node},
	}
	if object, err = s.client.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: node}}
	if _, err := s.client.CoreV1().Nodes().UpdateStatus(t.Context(), object, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { s.run(ctx) })
	t.Cleanup(func() { cancel(); group.Wait() })
	return s
}

// run approves and signs what is asked for, as far as that is on.
func (s *site) run(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		list, err := s.client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		denied := int64(0)
		for i := range list.Items {
			csr := &list.Items[i]
			switch decided := csr.Status.Conditions; {
			case len(decided) == 0 && s.approves.Load():
				if _, err := s.approver.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(csr)}); err != nil && ctx.Err() == nil {
					s.t.Logf("approve: %v", err)
				}
			case len(decided) > 0 && decided[0].Type == certificatesv1.CertificateDenied:
				denied++
			case len(decided) > 0 && len(csr.Status.Certificate) == 0 && s.signs.Load():
				if err := s.sign(ctx, csr); err != nil && ctx.Err() == nil {
					s.t.Logf("sign: %v", err)
				}
			}
		}
		s.denied.Store(denied)
	}
}

// sign gives a certificate nine tenths of whose life are over, or more: the next is due.
func (s *site) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	block, _ := pem.Decode(csr.Spec.Request)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	left := time.Duration(s.left.Load()) * time.Second
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(100 + s.serial.Add(1)), Subject: request.Subject, DNSNames: request.DNSNames, IPAddresses: request.IPAddresses,
		NotBefore: time.Now().Add(-20 * left), NotAfter: time.Now().Add(left),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, s.cert, request.PublicKey, s.key)
	if err != nil {
		return err
	}
	csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return err
}

// virtual makes the node one of ours, or takes that from it.
func (s *site) virtual(yes bool) {
	s.t.Helper()
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:"%t"}}}`, wellknown.VirtualNode, yes)
	if _, err := s.client.CoreV1().Nodes().Patch(s.t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// api serves the kubelet API with the certificates of the manager.
type api struct {
	s       *site
	address string
	roots   *x509.CertPool
	client  tls.Certificate
}

// endless writes lines until the reader goes.
type endless struct{}

func (endless) ContainerLogs(ctx context.Context, _ *corev1.Pod, _ string, _ kubeletapi.LogOptions, w io.Writer) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if _, err := fmt.Fprintln(w, "line", i); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// source is a PodSource of one pod.
type source struct{ pod *corev1.Pod }

func (o source) Pods() []*corev1.Pod                    { return []*corev1.Pod{o.pod} }
func (o source) Pod(string, string) (*corev1.Pod, bool) { return o.pod, true }

func serve(s *site, certs *servingcert.Manager) *api {
	t := s.t
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, s.cert, &key.PublicKey, s.key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}},
	}
	server, err := kubeletapi.New(kubeletapi.Config{Certificate: certs.Get, ClientCAFile: ca, Client: s.client, Log: logr.Discard()},
		kubeletapi.Sources{Pods: source{pod}, Logs: endless{}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(s.cert)
	return &api{s, listener.Addr().String(), roots, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}
}

// serving shakes hands and gives the serial number of the certificate that the API shows.
func (a *api) serving() (int64, error) {
	dialer := &tls.Dialer{Config: &tls.Config{RootCAs: a.roots, MinVersion: tls.VersionTLS13}}
	ctx, cancel := context.WithTimeout(a.s.t.Context(), 20*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", a.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}

// follow reads lines of one long answer; lines counts them, and err is how it ended.
func (a *api) follow() (lines *atomic.Int64) {
	t := a.s.t
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.roots, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{a.client}}}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+a.address+"/containerLogs/ns/p/main?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		t.Fatalf("follow: %s", answer.Status)
	}
	lines = &atomic.Int64{}
	var group sync.WaitGroup
	group.Go(func() {
		scanner := bufio.NewScanner(answer.Body)
		for scanner.Scan() {
			if want := fmt.Sprint("line ", lines.Load()); scanner.Text() != want {
				t.Errorf("the stream reads %q, want %q", scanner.Text(), want)
			}
			lines.Add(1)
		}
		if ctx.Err() == nil {
			t.Errorf("the stream ended after %d lines: %v", lines.Load(), scanner.Err())
		}
	})
	t.Cleanup(func() {
		cancel()
		group.Wait()
		_ = answer.Body.Close()
		transport.CloseIdleConnections()
	})
	return lines
}

// Certificates are renewed under an open stream; a denial, an approver and a
// signer that are away are told, the certificate that is there is used to its
// end, and everything goes on by itself afterwards.
func TestRotation(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: starts an API server; not with -short")
	}
	s := newSite(t)
	certs, err := servingcert.New(servingcert.Config{
		Client: s.client, SignerName: certificatesv1.KubeletServingSignerName, Dir: filepath.Join(t.TempDir(), "pki"), Address: "127.0.0.1", Log: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	a := serve(s, certs)
	until := func(what string, look func() (bool, string)) {
		t.Helper()
		controllertest.Eventually(t, 2*time.Minute, func(context.Context) string {
			ok, saw := look()
			if ok {
				return ""
			}
			return what + "; last seen: " + saw
		})
	}
	state := func(has bool, words string) func() (bool, string) {
		return func() (bool, string) {
			got := certs.State(node)
			return got.Until.IsZero() != has && (words == "" && got.Why == "" || words != "" && strings.Contains(got.Why, words)), fmt.Sprintf("%+v", got)
		}
	}

	if _, err := a.serving(); err == nil {
		t.Error("something is served before there is a certificate")
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	if err := certs.SetNodes(ctx, []string{node}); err != nil {
		t.Fatal(err)
	}
	until("nobody approves", state(false, "waits for approval"))
	s.left.Store(600)
	s.approves.Store(true)
	s.signs.Store(true)
	until("a certificate is there", state(true, ""))
	lines := a.follow()
	seen := map[int64]bool{}
	until("four certificates follow on each other", func() (bool, string) {
		serial, err := a.serving()
		if err != nil {
			t.Errorf("a handshake failed in the course of a renewal: %v", err)
		}
		seen[serial] = true
		return len(seen) >= 4, fmt.Sprint(seen)
	})

	s.virtual(false)
	until("a denial is told", state(true, "was denied: NotAVirtualNode: node hpc-a100 is not a virtual node"))
	until("it is asked for again", func() (bool, string) { n := s.denied.Load(); return n >= 2, fmt.Sprint(n, " denials") })
	if _, err := a.serving(); err != nil {
		t.Errorf("after a denial: %v", err)
	}

	// The next one lives so short that it ends while the approver is away.
	s.left.Store(5)
	s.virtual(true)
	until("the next is there", func() (bool, string) {
		got := certs.State(node)
		return !got.Until.IsZero() && time.Until(got.Until) < 10*time.Second || got.Until.IsZero(), fmt.Sprintf("%+v", got)
	})
	s.approves.Store(false)
	until("the approver is away", state(false, "waits for approval"))
	if serial, err := a.serving(); err == nil {
		t.Errorf("the expired certificate %d is served", serial)
	}
	s.signs.Store(false)
	s.left.Store(600)
	s.approves.Store(true)
	until("the signer is away", state(false, "is approved and waits for the signer kubernetes.io/kubelet-serving"))
	s.signs.Store(true)
	until("all is well again", func() (bool, string) {
		serial, err := a.serving()
		return err == nil && serial > 0, fmt.Sprint(err)
	})
	had := lines.Load()
	until("the stream goes on", func() (bool, string) { n := lines.Load(); return n > had+10, fmt.Sprint(n, " lines") })
	t.Logf("%d certificates were signed and %d requests denied under one stream of %d lines", s.serial.Load(), s.denied.Load(), lines.Load())
}
