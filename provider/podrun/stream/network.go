package stream

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"
)

// The way over the network, for batch systems that let no program into a running
// job: the runner listens, and leaves its address with a secret in a file that
// only the pod's user can read (manifest.Listening). Whoever holds the secret is
// that user, and so may do what that user may. It never goes over the network:
// both ends derive both ends' keys from it, and each takes no other key of its
// peer (TLS 1.3 with client certificates).

// SecretSize is that of a secret in bytes.
const SecretSize = 32

// GreetLimit bounds how long the two ends may take to know each other.
const GreetLimit = 20 * time.Second

// The names in the certificates of the two ends.
const (
	runnerName   = "runner.isthmus.invalid"
	providerName = "provider.isthmus.invalid"
)

// NewSecret makes a secret.
func NewSecret() ([]byte, error) {
	secret := make([]byte, SecretSize)
	_, err := rand.Read(secret)
	return secret, err
}

// RunnerTLS is what the runner's end of a connection takes and shows.
func RunnerTLS(secret []byte) (*tls.Config, error) { return ends(secret, runnerName, providerName) }

// providerTLS is the other end's.
func providerTLS(secret []byte) (*tls.Config, error) { return ends(secret, providerName, runnerName) }

func ends(secret []byte, own, peer string) (*tls.Config, error) {
	mine, err := certificate(secret, own)
	if err != nil {
		return nil, err
	}
	theirs, err := certificate(secret, peer)
	if err != nil {
		return nil, err
	}
	only := x509.NewCertPool()
	only.AddCert(theirs.Leaf)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{mine},
		RootCAs: only, ServerName: peer,
		ClientCAs: only, ClientAuth: tls.RequireAndVerifyClientCert,
		SessionTicketsDisabled: true,
	}, nil
}

// certificate is the one of the end called name. It is the same wherever it is
// made, and holds at any time: clocks of compute hosts may be wrong, and the
// secret has an end of its own, with the pod.
func certificate(secret []byte, name string) (tls.Certificate, error) {
	if len(secret) != SecretSize {
		return tls.Certificate{}, fmt.Errorf("the secret has %d bytes, want %d", len(secret), SecretSize)
	}
	seed, err := hkdf.Key(sha256.New, secret, nil, "isthmus stream 1 "+name, ed25519.SeedSize)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("derive a key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// greeted is a connection whose first bytes were looked at.
type greeted struct {
	net.Conn
	r *bufio.Reader
}

func (g greeted) Read(p []byte) (int, error) { return g.r.Read(p) }

// Reach connects to the runner at address, "host:port", and returns once both
// ends have proved that they hold the secret. It blocks for GreetLimit at most.
func Reach(ctx context.Context, address string, secret []byte) (net.Conn, error) {
	config, err := providerTLS(secret)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, GreetLimit)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		var other *tls.CertificateVerificationError
		if errors.As(err, &other) {
			err = errors.New("what answers there is not the pod's runner")
		}
		return nil, fmt.Errorf("reach the pod's runner at %s: %w", address, err)
	}
	// The runner speaks first, and only to one who has proved to hold the secret.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	r := bufio.NewReader(conn)
	_, err = r.Peek(1)
	if !stop() || err != nil {
		_ = conn.Close()
		if err == nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("the pod's runner at %s took no connection: %w", address, err)
	}
	return greeted{conn, r}, nil
}
