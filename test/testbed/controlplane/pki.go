package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity of all certificates: longer than any testbed lives.
const validity = 30 * 24 * time.Hour

// authority signs certificates and is trusted in one role.
type authority struct {
	file string // PEM certificate
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// newAuthority makes an authority, or loads it where an earlier program made it.
func newAuthority(dir, name string) (*authority, error) {
	a := &authority{file: filepath.Join(dir, name+".crt")}
	keyFile := filepath.Join(dir, name+".key")
	if raw, err := os.ReadFile(keyFile); err == nil {
		return a, a.load(raw)
	}
	key, err := newKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	a.key = key
	template, err := newTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	return a, writePEM(a.file, "CERTIFICATE", der)
}

func (a *authority) load(keyPEM []byte) error {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return fmt.Errorf("load authority %s: key is not PEM", a.file)
	}
	var err error
	if a.key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
		return fmt.Errorf("load authority %s: %w", a.file, err)
	}
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return fmt.Errorf("load authority: %w", err)
	}
	if block, _ = pem.Decode(raw); block == nil {
		return fmt.Errorf("load authority %s: certificate is not PEM", a.file)
	}
	if a.cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return fmt.Errorf("load authority %s: %w", a.file, err)
	}
	return nil
}

// pair is a certificate with its key, as files.
type pair struct{ cert, key string }

// issue signs a certificate for subject. With hosts (names or addresses) it is
// for a server, without for a client.
func (a *authority) issue(dir, name string, subject pkix.Name, hosts ...string) (pair, error) {
	out := pair{cert: filepath.Join(dir, name+".crt"), key: filepath.Join(dir, name+".key")}
	key, err := newKey(out.key)
	if err != nil {
		return pair{}, fmt.Errorf("issue certificate %s: %w", name, err)
	}
	template, err := newTemplate(subject)
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, fmt.Errorf("issue certificate %s: %w", name, err)
	}
	return out, writePEM(out.cert, "CERTIFICATE", der)
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make certificate serial: %w", err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: subject,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
	}, nil
}

func newKey(file string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(file, "EC PRIVATE KEY", der)
}

func writePEM(file, kind string, der []byte) error {
	raw := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
