// Package servingcert gets the serving certificates of the virtual nodes from
// the cluster's own signer and rotates them: one certificate a node, since the
// signer ties its subject to one node's name. The API server calls nodes by
// address, which names none of them, so any certificate that holds the address
// will do; a client that calls a node by name gets that node's.
package servingcert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
)

// Config makes a Manager. All fields but Log are required.
type Config struct {
	Client kubernetes.Interface
	// SignerName of the requests; certificatesv1.KubeletServingSignerName but
	// where a site has a signer of its own.
	SignerName string
	// Dir keeps certificates and keys, mode 0700, so that a restart asks for none.
	Dir string
	// Address at which the API server reaches the nodes.
	Address string
	Log     logr.Logger
}

// Manager keeps the certificates of a changing set of nodes. Make it with New.
type Manager struct {
	cfg Config

	mu    sync.Mutex
	nodes map[string]node
}

type node struct {
	manager  certificate.Manager
	progress *progress
	stop     context.CancelFunc
}

// New makes the directory and a manager of no nodes yet.
func New(cfg Config) (*Manager, error) {
	if net.ParseIP(cfg.Address) == nil {
		return nil, fmt.Errorf("serving certificates: %q is not an address", cfg.Address)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("serving certificates: %w", err)
	}
	return &Manager{cfg: cfg, nodes: map[string]node{}}, nil
}

// SetNodes requests certificates for nodes that are new, and stops the rotation
// for those that are gone. It does not block. Requests end with ctx.
func (m *Manager) SetNodes(ctx context.Context, names []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, n := range m.nodes {
		if !slices.Contains(names, name) {
			n.stop()
			delete(m.nodes, name)
		}
	}
	for _, name := range names {
		if _, ok := m.nodes[name]; ok {
			continue
		}
		n, err := m.start(ctx, name)
		if err != nil {
			return err
		}
		m.nodes[name] = n
	}
	return nil
}

func (m *Manager) start(ctx context.Context, name string) (node, error) {
	log := m.cfg.Log.WithValues("node", name)
	store, err := certificate.NewFileStoreWithLogger(log, "kubelet-"+name, m.cfg.Dir, m.cfg.Dir, "", "")
	if err != nil {
		return node{}, fmt.Errorf("serving certificate of node %s: %w", name, err)
	}
	ctx, stop := context.WithCancel(logr.NewContext(ctx, log))
	seen := &progress{now: time.Now}
	client := watched{Interface: m.cfg.Client, progress: seen}
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		Template: &x509.CertificateRequest{
			// What the signer kubernetes.io/kubelet-serving wants.
			Subject:     pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
			DNSNames:    []string{name},
			IPAddresses: []net.IP{net.ParseIP(m.cfg.Address)},
		},
		SignerName:       m.cfg.SignerName,
		Usages:           []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		CertificateStore: store, Name: name, Ctx: &ctx,
	})
	if err != nil {
		stop()
		return node{}, fmt.Errorf("serving certificate of node %s: %w", name, err)
	}
	manager.Start()
	return node{manager: manager, progress: seen, stop: stop}, nil
}

// Get picks the certificate for a caller; it is a tls.Config's GetCertificate.
func (m *Manager) Get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, ok := m.nodes[hello.ServerName]; ok {
		if cert := n.manager.Current(); cert != nil {
			return cert, nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes)) {
		if cert := m.nodes[name].manager.Current(); cert != nil {
			return cert, nil
		}
	}
	return nil, fmt.Errorf("no serving certificate yet: %d requests wait for approval or for the signer %s", len(m.nodes), m.cfg.SignerName)
}

// State is how a node stands.
type State struct {
	// Until is when its certificate expires; zero without one.
	Until time.Time
	// Why says what keeps it from a certificate or, where it has one, from the next;
	// "" when nothing does, or when the next has only just been asked for.
	Why string
}

// State of a node. A certificate is used until it expires, whatever becomes of
// the next; that is asked for until it is there.
func (m *Manager) State(name string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[name]
	if !ok {
		return State{Why: "no certificate was asked for yet"}
	}
	why, lately := n.progress.why(m.cfg.SignerName)
	cert := n.manager.Current()
	switch {
	case cert == nil && why == "":
		return State{Why: "waiting for a certificate of signer " + m.cfg.SignerName}
	case cert == nil:
		return State{Why: why}
	case lately:
		why = ""
	}
	return State{Until: cert.Leaf.NotAfter, Why: why}
}
