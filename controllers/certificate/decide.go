// Package certificate approves the serving certificates of virtual nodes, and of
// nothing else: Kubernetes signs requests to kubernetes.io/kubelet-serving and
// approves none by itself.
package certificate

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"strings"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

const (
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
)

// verdict is what to do about a request.
type verdict int

const (
	leave   verdict = iota // not about a virtual node: another's business
	wait                   // the node is not there yet, or has no address
	approve                //
	deny
)

// decide judges a request; node is the one that the request's subject names, nil
// when there is none. requesters are the users of virtual kubelets. reason is
// for people.
func decide(csr *certificates.CertificateSigningRequest, node *corev1.Node, requesters []string) (v verdict, reason string) {
	ours := slices.Contains(requesters, csr.Spec.Username)
	req, name, err := parse(csr)
	switch {
	case err != nil && ours:
		return deny, err.Error()
	case err != nil:
		return leave, ""
	case node == nil && ours:
		return wait, fmt.Sprintf("node %s does not exist yet", name)
	case node == nil:
		return leave, ""
	case !virtual(node) && ours:
		return deny, fmt.Sprintf("node %s is not a virtual node: a virtual kubelet gets no certificate for it", name)
	case !virtual(node):
		return leave, ""
	case !ours && csr.Spec.Username != nodeUser+name:
		return deny, fmt.Sprintf("user %s is neither a virtual kubelet nor node %s", csr.Spec.Username, name)
	}
	return judge(csr, req, node)
}

// judge compares a request with the virtual node it is for.
func judge(csr *certificates.CertificateSigningRequest, req *x509.CertificateRequest, node *corev1.Node) (verdict, string) {
	if !slices.Equal(req.Subject.Organization, []string{nodeGroup}) {
		return deny, fmt.Sprintf("organization is %q, must be %q", req.Subject.Organization, nodeGroup)
	}
	if len(req.EmailAddresses) > 0 || len(req.URIs) > 0 {
		return deny, "it holds email addresses or URIs"
	}
	usages := slices.Clone(csr.Spec.Usages)
	usages = slices.DeleteFunc(usages, func(u certificates.KeyUsage) bool {
		return u == certificates.UsageDigitalSignature || u == certificates.UsageKeyEncipherment || u == certificates.UsageServerAuth
	})
	if len(usages) > 0 || !slices.Contains(csr.Spec.Usages, certificates.UsageServerAuth) {
		return deny, fmt.Sprintf("usages are %q, must be those of a server", csr.Spec.Usages)
	}
	var names, addresses []string
	for _, a := range node.Status.Addresses {
		switch a.Type {
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
			names = append(names, a.Address)
		case corev1.NodeInternalIP, corev1.NodeExternalIP:
			addresses = append(addresses, net.ParseIP(a.Address).String())
		}
	}
	if len(addresses) == 0 {
		return wait, fmt.Sprintf("node %s has no address yet", node.Name)
	}
	var asked []string
	for _, ip := range req.IPAddresses {
		asked = append(asked, ip.String())
	}
	if !same(req.DNSNames, names) || !same(asked, addresses) {
		return deny, fmt.Sprintf("it is for %q, node %s has %q", append(slices.Clone(req.DNSNames), asked...), node.Name, append(names, addresses...))
	}
	return approve, fmt.Sprintf("serving certificate of virtual node %s", node.Name)
}

// parse reads the request and the node's name in its subject.
func parse(csr *certificates.CertificateSigningRequest) (*x509.CertificateRequest, string, error) {
	block, rest := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, "", fmt.Errorf("it is no PEM block of type CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, "", fmt.Errorf("parse request: %w", err)
	}
	name, ok := strings.CutPrefix(req.Subject.CommonName, nodeUser)
	if !ok || name == "" {
		return nil, "", fmt.Errorf("common name is %q, must be %q", req.Subject.CommonName, nodeUser+"<node>")
	}
	return req, name, nil
}

// virtual reports whether a node is one of ours: the label is for people, the
// provider id cannot be changed once it is set.
func virtual(n *corev1.Node) bool {
	return n.Labels[wellknown.VirtualNode] == "true" &&
		strings.HasPrefix(n.Spec.ProviderID, wellknown.ProviderIDScheme) && strings.HasSuffix(n.Spec.ProviderID, "/"+n.Name)
}

func same(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
