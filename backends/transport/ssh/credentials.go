package ssh

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// Credentials are what a user logs in with. They are read anew for every login,
// so that a renewed key or certificate is used at once.
type Credentials struct {
	// Key is a private key in PEM form, without a passphrase; nil is none.
	Key []byte
	// Certificate is an OpenSSH certificate for Key in the authorized_keys
	// format; nil is none.
	Certificate []byte
	// AgentSocket is the socket of an ssh-agent; "" is none. With Key only Key is used.
	AgentSocket string
}

// maxAgentKeys is how many of an agent's keys are tried: sshd closes the
// connection after six tries and may count them towards a lock-out.
const maxAgentKeys = 4

// identity is a set of credentials that is ready for use.
type identity struct {
	signers []ssh.Signer
	digest  [sha256.Size]byte // changes when the credentials do
	close   func()
}

func denied(format string, args ...any) error {
	return fmt.Errorf("%w: %w", transport.ErrDenied, fmt.Errorf(format, args...))
}

// open checks and loads the credentials. Errors wrap transport.ErrDenied and,
// where that is the cause, transport.ErrCredentialsExpired.
func (c Credentials) open(ctx context.Context, now time.Time) (*identity, error) {
	switch {
	case c.Key != nil:
		return c.openKey(now)
	case c.AgentSocket != "":
		return openAgent(ctx, c.AgentSocket, now)
	default:
		return nil, denied("no key, certificate or agent is configured")
	}
}

func (c Credentials) openKey(now time.Time) (*identity, error) {
	id := &identity{digest: sha256.Sum256(append(append([]byte(nil), c.Key...), c.Certificate...)), close: func() {}}
	signer, err := ssh.ParsePrivateKey(c.Key)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return id, denied("the private key has a passphrase; give one without, or use an ssh-agent")
	}
	if err != nil {
		return id, denied("the private key cannot be read: %w", err)
	}
	if c.Certificate != nil {
		public, _, _, _, err := ssh.ParseAuthorizedKey(c.Certificate)
		if err != nil {
			return id, denied("the certificate cannot be read: %w", err)
		}
		cert, ok := public.(*ssh.Certificate)
		if !ok {
			return id, denied("the certificate file holds a plain public key")
		}
		if err := valid(cert, now); err != nil {
			return id, err
		}
		if signer, err = ssh.NewCertSigner(cert, signer); err != nil {
			return id, denied("the certificate is not for the private key: %w", err)
		}
	}
	id.signers = []ssh.Signer{signer}
	return id, nil
}

// valid checks a certificate's time.
func valid(cert *ssh.Certificate, now time.Time) error {
	at := now.Unix()
	if cert.ValidBefore != ssh.CertTimeInfinity && at >= int64(cert.ValidBefore) { //nolint:gosec // the year 292 billion is infinity
		return fmt.Errorf("%w: %w: the certificate %q was valid until %s", transport.ErrDenied, transport.ErrCredentialsExpired,
			cert.KeyId, time.Unix(int64(cert.ValidBefore), 0).UTC().Format(time.RFC3339)) //nolint:gosec // see above
	}
	if at < int64(cert.ValidAfter) { //nolint:gosec // see above
		return denied("the certificate %q is valid only from %s", cert.KeyId, time.Unix(int64(cert.ValidAfter), 0).UTC().Format(time.RFC3339)) //nolint:gosec // see above
	}
	return nil
}

func openAgent(ctx context.Context, socket string, now time.Time) (*identity, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, denied("the ssh-agent does not answer: %w", err)
	}
	id := &identity{close: func() { _ = conn.Close() }}
	stop := context.AfterFunc(ctx, id.close)
	signers, err := agent.NewClient(conn).Signers()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		id.close()
		return nil, denied("the ssh-agent does not list its keys: %w", err)
	}
	h := sha256.New()
	var expired error
	for _, s := range signers {
		_, _ = h.Write(s.PublicKey().Marshal())
		if cert, ok := s.PublicKey().(*ssh.Certificate); ok {
			if err := valid(cert, now); err != nil {
				expired = err
				continue
			}
		}
		if len(id.signers) < maxAgentKeys {
			id.signers = append(id.signers, s)
		}
	}
	h.Sum(id.digest[:0])
	if len(id.signers) == 0 {
		if expired == nil {
			expired = denied("the ssh-agent holds no key: unlock one with ssh-add")
		}
		return id, expired
	}
	return id, nil
}
