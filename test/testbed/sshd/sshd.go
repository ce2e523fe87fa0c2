// Package sshd runs real OpenSSH servers on loopback ports, with keys and
// configurations of their own, for tests of the SSH transport.
package sshd

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// Kinds of keys.
const (
	ED25519 = "ed25519"
	ECDSA   = "ecdsa"
	RSA     = "rsa"
)

// Key is a pair of keys.
type Key struct {
	Signer ssh.Signer
	PEM    []byte // the private key in OpenSSH's format
}

// Public is the public key in the authorized_keys format, with a newline.
func (k Key) Public() string { return string(ssh.MarshalAuthorizedKey(k.Signer.PublicKey())) }

// NewKey makes one.
func NewKey(kind string) (Key, error) {
	var private crypto.PrivateKey
	var err error
	switch kind {
	case ED25519:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	case ECDSA:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA:
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		err = fmt.Errorf("no kind of key is named %q", kind)
	}
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "isthmus testbed")
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	return Key{Signer: signer, PEM: pem.EncodeToMemory(block)}, nil
}

// Certify signs a certificate for a public key: of a user, or else of a host.
func (k Key) Certify(public ssh.PublicKey, kind uint32, principal string, until time.Time) ([]byte, error) {
	c := &ssh.Certificate{
		Key: public, CertType: kind, KeyId: "testbed-" + principal, ValidPrincipals: []string{principal},
		ValidAfter:  uint64(until.Add(-24 * time.Hour).Unix()), //nolint:gosec // a time of this century
		ValidBefore: uint64(until.Unix()),                      //nolint:gosec // see above
		Permissions: ssh.Permissions{Extensions: map[string]string{"permit-port-forwarding": ""}},
	}
	if err := c.SignCert(rand.Reader, k.Signer); err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return ssh.MarshalAuthorizedKey(c), nil
}

// Config of a Server.
type Config struct {
	// HostKeys are the kinds of keys the server has; ED25519 when empty.
	HostKeys []string
	// HostAuthority, when set, certifies the host keys.
	HostAuthority *Key
	// UserAuthority, when set, is trusted for certificates of users.
	UserAuthority *Key
	// NoSFTP leaves the sftp subsystem out.
	NoSFTP bool
	// Lines are added to the configuration, for example "MaxSessions 2".
	Lines []string
	// Address is where to listen; a free port of 127.0.0.1 when empty.
	Address string
}

// Server is a running sshd. It ends with this program.
type Server struct {
	// Address is host:port.
	Address string
	// Keys are the host keys by kind.
	Keys map[string]Key

	dir   string
	group *process.Group
	proc  *process.Process
}

// Start starts a server and returns once it accepts connections.
func Start(ctx context.Context, config Config) (_ *Server, err error) {
	dir, err := os.MkdirTemp("", "isthmus-sshd-")
	if err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	s := &Server{Keys: map[string]Key{}, dir: dir, Address: config.Address}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start sshd: %w", err), s.Stop())
		}
	}()
	// sshd reads the files of authorized keys as their users.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(filepath.Join(dir, "authorized"), 0o755), os.MkdirAll("/run/sshd", 0o755)); err != nil {
		return nil, err
	}
	if s.Address == "" {
		if s.Address, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	lines := []string{
		"ListenAddress " + s.Address, "PidFile none", "LogLevel DEBUG1", "UsePAM no", "UseDNS no", "StrictModes no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin no", "X11Forwarding no",
		"MaxStartups 100", "AuthorizedKeysFile " + dir + "/authorized/%u",
		"AllowUsers " + strings.Join([]string{Dash, Bash, Tcsh}, " "),
	}
	kinds := config.HostKeys
	if len(kinds) == 0 {
		kinds = []string{ED25519}
	}
	for _, kind := range kinds {
		key, err := NewKey(kind)
		if err != nil {
			return nil, err
		}
		s.Keys[kind] = key
		file := filepath.Join(dir, "host_"+kind)
		if err := os.WriteFile(file, key.PEM, 0o600); err != nil {
			return nil, err
		}
		lines = append(lines, "HostKey "+file)
		if config.HostAuthority != nil {
			host, _, _ := net.SplitHostPort(s.Address) // it was made by JoinHostPort
			cert, err := config.HostAuthority.Certify(key.Signer.PublicKey(), ssh.HostCert, host, time.Now().Add(time.Hour))
			if err != nil {
				return nil, err
			}
			if err := os.WriteFile(file+"-cert.pub", cert, 0o600); err != nil {
				return nil, err
			}
			lines = append(lines, "HostCertificate "+file+"-cert.pub")
		}
	}
	if config.UserAuthority != nil {
		file := filepath.Join(dir, "user_ca.pub")
		if err := os.WriteFile(file, []byte(config.UserAuthority.Public()), 0o644); err != nil {
			return nil, err
		}
		lines = append(lines, "TrustedUserCAKeys "+file)
	}
	if !config.NoSFTP {
		lines = append(lines, "Subsystem sftp internal-sftp")
	}
	lines = append(config.Lines, lines...) // the first of a keyword counts
	if err := os.WriteFile(s.config(), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	if s.group, err = process.Open(dir, process.Options{Tether: true}); err != nil {
		return nil, err
	}
	return s, s.Resume(ctx)
}

func (s *Server) config() string { return filepath.Join(s.dir, "sshd_config") }

// Resume starts a server that was halted again, on the same address.
func (s *Server) Resume(ctx context.Context) (err error) {
	s.proc, err = s.group.Start(process.Spec{Name: "sshd", Argv: []string{"/usr/sbin/sshd", "-D", "-e", "-f", s.config()}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return s.proc.WaitReady(ctx, func(ctx context.Context) error {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", s.Address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Authorize lets a user log in with keys in the authorized_keys format; it
// replaces those of before.
func (s *Server) Authorize(user string, keys ...string) error {
	file := filepath.Join(s.dir, "authorized", user)
	return os.WriteFile(file, []byte(strings.Join(keys, "")), 0o644)
}

// KnownHosts is the text of a known_hosts file with the server's own keys.
func (s *Server) KnownHosts() string {
	var out strings.Builder
	for _, key := range s.Keys {
		out.WriteString(KnownHostsLine(s.Address, key.Signer.PublicKey()))
	}
	return out.String()
}

// KnownHostsLine is a line of known_hosts for host:port.
func KnownHostsLine(address string, key ssh.PublicKey) string {
	host, port, _ := net.SplitHostPort(address) // a bad one gives a line that matches nothing
	return "[" + host + "]:" + port + " " + string(ssh.MarshalAuthorizedKey(key))
}

// Log is what the server has said.
func (s *Server) Log() string {
	raw, err := os.ReadFile(s.group.LogFile("sshd"))
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// Connections are the processes that serve one connection each.
func (s *Server) Connections() []int { return children(s.proc.PID) }

func children(parent int) []int {
	var out []int
	entries, _ := os.ReadDir("/proc") // always there on Linux
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue
		}
		// pid (comm) state ppid; the name may hold anything.
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			out = append(out, pid)
		}
	}
	return out
}

// Cut ends all connections without a word, as a network does that breaks. The
// commands of the connections run on.
func (s *Server) Cut() {
	for _, monitor := range s.Connections() {
		// The process of the user holds the socket; below it are the commands.
		for _, pid := range children(monitor) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
		_ = syscall.Kill(monitor, syscall.SIGKILL)
	}
}

// Halt stops the server and its connections; Resume starts it again.
func (s *Server) Halt() error {
	pids := s.Connections()
	err := s.group.StopAll(3 * time.Second)
	for _, monitor := range pids {
		for _, pid := range append([]int{monitor}, children(monitor)...) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
	return err
}

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	var err error
	if s.proc != nil {
		err = s.Halt()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
