// Package servingcert keeps the webhook's certificates: it makes an authority of
// its own and a serving certificate, renews both in time, and tells the API server
// of the authority in the webhook configurations. Everything is in one Secret.
//
// Every replica does so, without a leader: each step is a pure function of what is
// stored, and a write is bound to the version that was read, so that of two
// replicas one wins and the other reads what that one wrote. An authority signs
// only after all configurations hold it, and an older one stays there while
// certificates of it are good, so that no replica is ever distrusted.
package servingcert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// Keys of the Secret. The bundle begins with the authority whose key is there.
const (
	bundleKey    = "ca.crt"
	authorityKey = "ca.key"
	certKey      = "tls.crt"
	privateKey   = "tls.key"
)

// Lives of certificates; each is renewed when a third of its life is left.
type Lives struct {
	Authority, Serving time.Duration
}

// DefaultLives are long for the authority, whose renewal takes several steps, and
// short for what is served.
var DefaultLives = Lives{Authority: 5 * 365 * 24 * time.Hour, Serving: 90 * 24 * time.Hour}

// early is how far back certificates begin: clocks differ.
const early = 10 * time.Minute

// Input is what a decision rests on.
type Input struct {
	// Data is that of the Secret.
	Data map[string][]byte
	// Hosts are the names or addresses by which the API server calls.
	Hosts []string
	// Told are the bundles that the configurations hold.
	Told  [][]byte
	Now   time.Time
	Lives Lives
}

// decide says what the Secret is to hold; nil is what it holds already.
func decide(in Input) (map[string][]byte, error) {
	authorities, err := parseBundle(in.Data[bundleKey])
	key, kerr := parseKey(in.Data[authorityKey])
	if err != nil || kerr != nil || len(authorities) == 0 || !matches(authorities[0], key) || in.Now.After(authorities[0].NotAfter) {
		return in.begin()
	}
	next := map[string][]byte{}
	for k, v := range in.Data {
		next[k] = v
	}
	signer := authorities[0]
	known := !slices.ContainsFunc(in.Told, func(b []byte) bool { return !bytes.Equal(b, in.Data[bundleKey]) })
	serving, serr := parsePair(in.Data[certKey], in.Data[privateKey])
	usable := serr == nil && in.Now.Before(serving.NotAfter) && covers(serving, in.Hosts) &&
		slices.ContainsFunc(authorities, func(a *x509.Certificate) bool { return serving.CheckSignatureFrom(a) == nil })
	bySigner := usable && serving.CheckSignatureFrom(signer) == nil
	switch {
	case due(signer, in.Now) && bySigner:
		// The new authority is made known first, and signs in a later step.
		made, key, err := newAuthority(in.Now, in.Lives.Authority)
		if err != nil {
			return nil, err
		}
		next[bundleKey] = encode(append([]*x509.Certificate{made}, good(authorities, in.Now)...)...)
		if next[authorityKey], err = encodeKey(key); err != nil {
			return nil, err
		}
		return next, nil
	case !usable, due(serving, in.Now) && known, !bySigner && known:
		if err := issue(next, signer, key, in); err != nil {
			return nil, err
		}
		return next, nil
	}
	return nil, nil //nolint:nilnil // nothing is to be done
}

// begin makes everything anew.
func (in Input) begin() (map[string][]byte, error) {
	authority, key, err := newAuthority(in.Now, in.Lives.Authority)
	if err != nil {
		return nil, err
	}
	data := map[string][]byte{bundleKey: encode(authority)}
	if data[authorityKey], err = encodeKey(key); err != nil {
		return nil, err
	}
	return data, issue(data, authority, key, in)
}

// due says that two thirds of a certificate's life are over.
func due(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2))
}

func good(authorities []*x509.Certificate, now time.Time) []*x509.Certificate {
	return slices.DeleteFunc(slices.Clone(authorities), func(c *x509.Certificate) bool { return now.After(c.NotAfter) })
}

func covers(c *x509.Certificate, hosts []string) bool {
	return !slices.ContainsFunc(hosts, func(h string) bool { return c.VerifyHostname(h) != nil })
}

func newAuthority(now time.Time, life time.Duration) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, serial, err := fresh()
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: fmt.Sprintf("isthmus-admission %x", serial.Bytes()[:4])},
		NotBefore: now.Add(-early), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make authority: %w", err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("make authority: %w", err)
	}
	return c, key, nil
}

// issue puts a serving certificate into data.
func issue(data map[string][]byte, authority *x509.Certificate, by *ecdsa.PrivateKey, in Input) error {
	key, serial, err := fresh()
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "isthmus-admission"},
		NotBefore: in.Now.Add(-early), NotAfter: in.Now.Add(in.Lives.Serving),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if t.NotAfter.After(authority.NotAfter) {
		t.NotAfter = authority.NotAfter
	}
	for _, h := range in.Hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, t, authority, key.Public(), by)
	if err != nil {
		return fmt.Errorf("issue serving certificate: %w", err)
	}
	data[certKey] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	data[privateKey], err = encodeKey(key)
	return err
}

func fresh() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return nil, nil, fmt.Errorf("make serial number: %w", err)
	}
	raw[0] = raw[0]&0x7f | 0x40 // positive, and of one length
	return key, new(big.Int).SetBytes(raw), nil
}

func encode(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), nil
}

func parseBundle(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(text) > 0 {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil, errors.New("the bundle holds what is no PEM")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse authority: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key is no PEM")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse key: %w", err)
	}
	return key, nil
}

func parsePair(cert, key []byte) (*x509.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("parse serving certificate: %w", err)
	}
	return pair.Leaf, nil
}

func matches(c *x509.Certificate, key *ecdsa.PrivateKey) bool {
	public, ok := c.PublicKey.(*ecdsa.PublicKey)
	return ok && public.Equal(key.Public())
}
