package ssh_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// Refused credentials are tried once, not again and again, until they change.
func TestBreaker(t *testing.T) {
	good, bad := newKey(t, sshd.ED25519), newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, good)
	var current atomic.Pointer[sshd.Key]
	current.Store(&bad)
	c := config(s, good, sshd.Dash)
	c.Hosts = []string{s.Address, s.Address} // a second name of the same site
	c.Credentials = func(context.Context, string) (ssh.Credentials, error) {
		return ssh.Credentials{Key: current.Load().PEM}, nil
	}
	r := open(t, c)
	for range 20 {
		_, err := run(t, r, "true")
		if !errors.Is(err, transport.ErrDenied) || !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), sshd.Dash) {
			t.Fatalf("refused credentials give %v", err)
		}
	}
	// The method "none" and the one key: one try, whatever was asked for.
	if tried, _ := logins(s); tried > 2 {
		t.Errorf("%d tries at the server for 20 commands", tried)
	}
	current.Store(&good)
	if _, err := run(t, r, "true"); err != nil {
		t.Errorf("changed credentials are not tried at once: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	ca, key := newKey(t, sshd.ED25519), newKey(t, sshd.ECDSA)
	s := server(t, sshd.Config{UserAuthority: &ca})
	until := time.Now().Add(time.Hour)
	var cert atomic.Pointer[[]byte]
	issue := func(until time.Time, principal string) {
		b, err := ca.Certify(key.Signer.PublicKey(), xssh.UserCert, principal, until)
		if err != nil {
			t.Fatal(err)
		}
		cert.Store(&b)
	}
	c := config(s, key, sshd.Dash)
	c.Credentials = func(context.Context, string) (ssh.Credentials, error) {
		return ssh.Credentials{Key: key.PEM, Certificate: *cert.Load()}, nil
	}
	r := open(t, c)
	issue(time.Now().Add(-time.Minute), sshd.Dash)
	for range 3 {
		_, err := run(t, r, "true")
		if !errors.Is(err, transport.ErrCredentialsExpired) || !errors.Is(err, transport.ErrDenied) || !errors.Is(err, transport.ErrNotStarted) {
			t.Fatalf("an expired certificate gives %v", err)
		}
	}
	if tried, _ := logins(s); tried != 0 {
		t.Errorf("an expired certificate was tried %d times", tried)
	}
	issue(until, sshd.Dash) // renewed
	if out, err := run(t, r, "id", "-un"); err != nil || out != sshd.Dash {
		t.Errorf("a valid certificate: %q, %v", out, err)
	}
	issue(until, "somebody-else")
	other := open(t, c)
	if _, err := run(t, other, "true"); !errors.Is(err, transport.ErrDenied) {
		t.Errorf("another principal's certificate gives %v", err)
	}
}

// startAgent serves an agent with the keys.
func startAgent(t *testing.T, keys ...agent.AddedKey) string {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer c.Close()
				_ = agent.ServeAgent(ring, c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); group.Wait() })
	return socket
}

func private(t *testing.T, k sshd.Key) any {
	t.Helper()
	raw, err := xssh.ParseRawPrivateKey(k.PEM)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAgent(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	c := config(s, key, sshd.Bash)
	with := func(socket string) *ssh.Runner {
		c.Credentials = func(context.Context, string) (ssh.Credentials, error) {
			return ssh.Credentials{AgentSocket: socket}, nil
		}
		return open(t, c)
	}
	r := with(startAgent(t, agent.AddedKey{PrivateKey: private(t, newKey(t, sshd.RSA))}, agent.AddedKey{PrivateKey: private(t, key)}))
	if out, err := run(t, r, "id", "-un"); err != nil || out != sshd.Bash {
		t.Errorf("with an agent: %q, %v", out, err)
	}
	for what, r := range map[string]*ssh.Runner{"no agent": with(filepath.Join(t.TempDir(), "none")), "an empty one": with(startAgent(t))} {
		if _, err := run(t, r, "true"); !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "agent") {
			t.Errorf("%s gives %v", what, err)
		}
	}
}
