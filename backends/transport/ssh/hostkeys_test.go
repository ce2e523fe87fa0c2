package ssh_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// proxy passes a connection on and keeps what the client sent.
type proxy struct {
	address string
	silent  atomic.Bool // passes nothing on any more
	mu      sync.Mutex
	sent    [][]byte // by connection
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String()}
	var group sync.WaitGroup
	var conns sync.Map
	group.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			conns.Store(client, nil)
			conns.Store(server, nil)
			p.mu.Lock()
			p.sent = append(p.sent, nil)
			n := len(p.sent) - 1
			p.mu.Unlock()
			pass := func(to, from net.Conn, keep bool) {
				defer to.Close()
				buf := make([]byte, 32<<10)
				for {
					k, err := from.Read(buf)
					if keep {
						p.mu.Lock()
						p.sent[n] = append(p.sent[n], buf[:k]...)
						p.mu.Unlock()
					}
					if k > 0 && !p.silent.Load() {
						if _, err := to.Write(buf[:k]); err != nil {
							return
						}
					}
					if err != nil {
						return
					}
				}
			}
			group.Go(func() { pass(server, client, true) })
			group.Go(func() { pass(client, server, false) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		conns.Range(func(c, _ any) bool { _ = c.(net.Conn).Close(); return true })
		group.Wait()
	})
	return p
}

// plainOnly checks that a client said nothing but what opens a key exchange: its
// version, KEXINIT, its half of the exchange, and a disconnect. Anything else, and
// all that is secret, comes after NEWKEYS.
func plainOnly(sent []byte) error {
	version := strings.Index(string(sent), "\r\n")
	if version < 0 {
		if len(sent) == 0 {
			return nil
		}
		return fmt.Errorf("no version in %q", sent)
	}
	for rest := sent[version+2:]; len(rest) > 0; {
		if len(rest) < 6 {
			return errors.New("cut packet")
		}
		size := binary.BigEndian.Uint32(rest)
		if uint32(len(rest)) < 4+size { //nolint:gosec // what a test has read
			return errors.New("cut packet: it is not in plain text")
		}
		switch kind := rest[5]; kind {
		case 1, 20, 30: // DISCONNECT, KEXINIT, KEX_ECDH_INIT
		default:
			return fmt.Errorf("a packet of type %d was sent", kind)
		}
		rest = rest[4+size:]
	}
	return nil
}

// A host that is unknown, has another key, or offers only an algorithm that
// known_hosts does not have, gets no session and not one byte of a credential:
// five faults, three kinds of keys and four kinds of credentials and ways.
func TestHostKeyMatrix(t *testing.T) {
	kinds := []string{sshd.ED25519, sshd.ECDSA, sshd.RSA}
	other := map[string]string{sshd.ED25519: sshd.ECDSA, sshd.ECDSA: sshd.RSA, sshd.RSA: sshd.ED25519}
	userKey, userCA, hostCA, rogueCA := newKey(t, sshd.ED25519), newKey(t, sshd.ED25519), newKey(t, sshd.ED25519), newKey(t, sshd.ED25519)
	certificate, err := userCA.Certify(userKey.Signer.PublicKey(), xssh.UserCert, sshd.Dash, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	socket := startAgent(t, agent.AddedKey{PrivateKey: private(t, userKey)})
	credentials := map[string]ssh.Credentials{
		"key": {Key: userKey.PEM}, "certificate": {Key: userKey.PEM, Certificate: certificate}, "agent": {AgentSocket: socket},
	}
	jump := server(t, sshd.Config{})
	authorize(t, jump, userKey)

	cases, sessions, violations := 0, 0, 0
	for _, kind := range kinds {
		plain := server(t, sshd.Config{HostKeys: []string{kind}, UserAuthority: &userCA})
		certified := server(t, sshd.Config{HostKeys: []string{kind}, HostAuthority: &rogueCA, UserAuthority: &userCA})
		authorize(t, plain, userKey)
		authorize(t, certified, userKey)
		own, swapped := plain.Keys[kind].Signer.PublicKey(), newKey(t, kind).Signer.PublicKey()
		for _, fault := range []struct {
			name   string
			server *sshd.Server
			known  func(address string) string
		}{
			{"unknown host", plain, func(string) string { return sshd.KnownHostsLine("192.0.2.1:22", own) }},
			{"swapped key", plain, func(a string) string { return sshd.KnownHostsLine(a, swapped) }},
			{"downgraded algorithm", plain, func(a string) string {
				// known_hosts has a key of another kind: what the server offers is
				// nothing that we agreed to.
				return sshd.KnownHostsLine(a, newKey(t, other[kind]).Signer.PublicKey())
			}},
			{"revoked key", plain, func(a string) string {
				line := sshd.KnownHostsLine(a, own)
				return line + "@revoked " + line
			}},
			{"other authority", certified, func(a string) string {
				return "@cert-authority " + sshd.KnownHostsLine(a, hostCA.Signer.PublicKey())
			}},
		} {
			for _, way := range []string{"key", "certificate", "agent", "jump"} {
				cases++
				name := kind + "/" + fault.name + "/" + way
				p := newProxy(t, fault.server.Address)
				before := strings.Count(fault.server.Log(), "userauth-request")
				known := fault.known(p.address)
				c := ssh.Config{
					Hosts: []string{p.address}, User: sshd.Dash,
					Credentials: func(context.Context, string) (ssh.Credentials, error) {
						if way == "jump" {
							return credentials["key"], nil
						}
						return credentials[way], nil
					},
				}
				if way == "jump" {
					c.ProxyJump = []string{jump.Address}
					known += jump.KnownHosts()
				}
				c.KnownHosts = func(context.Context) ([]byte, error) { return []byte(known), nil }
				r := open(t, c)
				_, err := run(t, r, "true")
				if err == nil {
					sessions++
				}
				if !errors.Is(err, ssh.ErrHostKey) || !errors.Is(err, transport.ErrNotStarted) || !errors.Is(err, transport.ErrDenied) {
					t.Errorf("%s: %v", name, err)
				}
				r.Close()
				if asked := strings.Count(fault.server.Log(), "userauth-request"); asked != before {
					violations++
					t.Errorf("%s: the server was asked to let a user in", name)
				}
				p.mu.Lock()
				for _, sent := range p.sent {
					if err := plainOnly(sent); err != nil {
						violations++
						t.Errorf("%s: %v", name, err)
					}
				}
				if fault.name == "unknown host" && len(p.sent) != 0 {
					t.Errorf("%s: an unknown host was connected to", name)
				}
				p.mu.Unlock()
			}
		}
	}
	t.Logf("host keys: %d cases, %d sessions, %d with anything sent but the opening of a key exchange", cases, sessions, violations)
	if cases != 60 || sessions != 0 || violations != 0 {
		t.Errorf("%d cases, %d sessions, %d violations; want 60, 0, 0", cases, sessions, violations)
	}
}

// What is right is let through: every kind of key, an authority, several keys,
// and hashed names.
func TestHostKeysThatMatch(t *testing.T) {
	key, ca := newKey(t, sshd.ED25519), newKey(t, sshd.ECDSA)
	s := server(t, sshd.Config{HostKeys: []string{sshd.RSA, sshd.ECDSA, sshd.ED25519}, HostAuthority: &ca})
	authorize(t, s, key)
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	public := func(kind string) xssh.PublicKey { return s.Keys[kind].Signer.PublicKey() }
	hashed := strings.SplitN(sshd.KnownHostsLine(s.Address, public(sshd.ED25519)), " ", 2)[1]
	for name, known := range map[string]string{
		"rsa": sshd.KnownHostsLine(s.Address, public(sshd.RSA)), "ecdsa": sshd.KnownHostsLine(s.Address, public(sshd.ECDSA)),
		"ed25519": sshd.KnownHostsLine(s.Address, public(sshd.ED25519)), "all": s.KnownHosts(),
		"authority": "@cert-authority [" + host + "]:" + port + " " + ca.Public(),
		"hashed":    knownhosts.HashHostname("["+host+"]:"+port) + " " + hashed,
		"comments":  "# keys of the site\n\n" + s.KnownHosts(),
	} {
		c := config(s, key, sshd.Dash)
		c.KnownHosts = func(context.Context) ([]byte, error) { return []byte(known), nil }
		if out, err := run(t, open(t, c), "echo", "in"); err != nil || out != "in" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	for name, known := range map[string]string{"empty": "", "comments": "# nothing\n", "no line": "this is not a known_hosts file at all"} {
		c := config(s, key, sshd.Dash)
		c.KnownHosts = func(context.Context) ([]byte, error) { return []byte(known), nil }
		if _, err := run(t, open(t, c), "true"); !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "known_hosts") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A login node with the wrong key is passed over, and a person is told.
func TestWrongKeyWarns(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	bad, good := server(t, sshd.Config{}), server(t, sshd.Config{})
	authorize(t, good, key)
	var said atomic.Value
	c := config(good, key, sshd.Dash)
	c.Hosts = []string{bad.Address, good.Address}
	c.KnownHosts = func(context.Context) ([]byte, error) {
		return []byte(good.KnownHosts() + sshd.KnownHostsLine(bad.Address, newKey(t, sshd.ED25519).Signer.PublicKey())), nil
	}
	c.Warn = func(text string) { said.Store(text) }
	if _, err := run(t, open(t, c), "true"); err != nil {
		t.Fatal(err)
	}
	if text, _ := said.Load().(string); !strings.Contains(text, bad.Address) {
		t.Errorf("the warning is %q", text)
	}
}
