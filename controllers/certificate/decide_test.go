package certificate

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"strings"
	"testing"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const vnode = "system:serviceaccount:isthmus-system:isthmus-vnode"

// asked is a request and the node it names, which a case may bend.
type asked struct {
	template x509.CertificateRequest
	csr      certificates.CertificateSigningRequest
	node     *corev1.Node
}

func good() *asked {
	return &asked{
		template: x509.CertificateRequest{
			Subject:  pkix.Name{CommonName: "system:node:hpc-a100", Organization: []string{"system:nodes"}},
			DNSNames: []string{"hpc-a100"}, IPAddresses: []net.IP{net.ParseIP("10.1.2.3")},
		},
		csr: certificates.CertificateSigningRequest{Spec: certificates.CertificateSigningRequestSpec{
			SignerName: certificates.KubeletServingSignerName, Username: vnode,
			Usages: []certificates.KeyUsage{certificates.UsageDigitalSignature, certificates.UsageServerAuth},
		}},
		node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "hpc-a100", Labels: map[string]string{wellknown.VirtualNode: "true"}},
			Spec:       corev1.NodeSpec{ProviderID: "isthmus://hpc/hpc-a100"},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: "10.1.2.3"}, {Type: corev1.NodeHostName, Address: "hpc-a100"},
			}},
		},
	}
}

func (a *asked) sign(t *testing.T, key *ecdsa.PrivateKey) {
	t.Helper()
	if a.csr.Spec.Request != nil {
		return
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &a.template, key)
	if err != nil {
		t.Fatal(err)
	}
	a.csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestDecide(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		bend   func(*asked)
		want   verdict
		reason string
	}{
		{"by the virtual kubelet", func(*asked) {}, approve, "hpc-a100"},
		{"by the node itself", func(a *asked) { a.csr.Spec.Username = "system:node:hpc-a100" }, approve, "hpc-a100"},
		{"with key encipherment", func(a *asked) { a.csr.Spec.Usages = append(a.csr.Spec.Usages, certificates.UsageKeyEncipherment) }, approve, ""},
		{"the node is not there yet", func(a *asked) { a.node = nil }, wait, "does not exist yet"},
		{"the node has no address yet", func(a *asked) { a.node.Status.Addresses = a.node.Status.Addresses[1:] }, wait, "no address"},
		{"a real kubelet for its real node", func(a *asked) {
			a.csr.Spec.Username, a.node.Labels, a.node.Spec.ProviderID = "system:node:hpc-a100", nil, "aws:///x"
		}, leave, ""},
		{"a stranger for no node", func(a *asked) { a.csr.Spec.Username, a.node = "eve", nil }, leave, ""},
		{"a stranger's garbage", func(a *asked) { a.csr.Spec.Username, a.csr.Spec.Request = "eve", []byte("x") }, leave, ""},
		{"garbage", func(a *asked) { a.csr.Spec.Request = []byte("x") }, deny, "PEM"},
		{"PEM of garbage", func(a *asked) {
			a.csr.Spec.Request = []byte("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
		}, deny, "parse"},
		{"a user", func(a *asked) { a.csr.Spec.Username = "eve" }, deny, "eve"},
		{"another node", func(a *asked) { a.csr.Spec.Username = "system:node:other" }, deny, "system:node:other"},
		{"another service account", func(a *asked) { a.csr.Spec.Username = vnode + "-2" }, deny, "isthmus-vnode-2"},
		{"a virtual kubelet for a real node", func(a *asked) { a.node.Labels = nil }, deny, "not a virtual node"},
		{"a node with the label alone", func(a *asked) { a.node.Spec.ProviderID = "" }, deny, "not a virtual node"},
		{"a provider id of another node", func(a *asked) { a.node.Spec.ProviderID = "isthmus://hpc/other" }, deny, "not a virtual node"},
		{"no organization", func(a *asked) { a.template.Subject.Organization = nil }, deny, "organization"},
		{"a further organization", func(a *asked) {
			a.template.Subject.Organization = append(a.template.Subject.Organization, "system:masters")
		}, deny, "organization"},
		{"another's name", func(a *asked) { a.template.Subject.CommonName = "kubernetes-admin" }, deny, "common name"},
		{"no node's name", func(a *asked) { a.template.Subject.CommonName = "system:node:" }, deny, "common name"},
		{"a further DNS name", func(a *asked) { a.template.DNSNames = append(a.template.DNSNames, "kubernetes.default") }, deny, "kubernetes.default"},
		{"a further address", func(a *asked) { a.template.IPAddresses = append(a.template.IPAddresses, net.ParseIP("10.0.0.1")) }, deny, "10.0.0.1"},
		{"no names", func(a *asked) { a.template.DNSNames = nil }, deny, "it is for"},
		{"no address", func(a *asked) { a.template.IPAddresses = nil }, deny, "it is for"},
		{"an email address", func(a *asked) { a.template.EmailAddresses = []string{"a@b"} }, deny, "email"},
		{"a URI", func(a *asked) { a.template.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }, deny, "URI"},
		{"for a client", func(a *asked) { a.csr.Spec.Usages = append(a.csr.Spec.Usages, certificates.UsageClientAuth) }, deny, "usages"},
		{"not for a server", func(a *asked) { a.csr.Spec.Usages = a.csr.Spec.Usages[:1] }, deny, "usages"},
		{"to sign others", func(a *asked) { a.csr.Spec.Usages = append(a.csr.Spec.Usages, certificates.UsageCertSign) }, deny, "usages"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := good()
			tc.bend(a)
			a.sign(t, key)
			got, reason := decide(&a.csr, a.node, []string{"system:other", vnode})
			if got != tc.want || !strings.Contains(reason, tc.reason) {
				t.Errorf("verdict %d because %q, want %d because %q", got, reason, tc.want, tc.reason)
			}
		})
	}
}
