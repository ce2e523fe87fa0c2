package ssh

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// ErrHostKey says that a host is not the one that known_hosts tells of, or that
// known_hosts does not tell of it. Nothing was sent that could be of use to it.
var ErrHostKey = errors.New("host key not verified")

// hostKeys checks host keys against known_hosts. Plain keys and authorities are
// kept apart, so that an authority's key is never taken for a host's own.
type hostKeys struct {
	plain, authorities ssh.HostKeyCallback
	probe              ssh.PublicKey
}

// parseKnownHosts reads the text of a known_hosts file.
func parseKnownHosts(text []byte) (*hostKeys, error) {
	var plain, authorities bytes.Buffer
	entries := 0
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		switch {
		case line == "" || line[0] == '#':
			continue
		case strings.HasPrefix(line, "@revoked"):
			fmt.Fprintln(&plain, line)
			fmt.Fprintln(&authorities, line)
		case strings.HasPrefix(line, "@cert-authority"):
			fmt.Fprintln(&authorities, line)
			entries++
		default:
			fmt.Fprintln(&plain, line)
			entries++
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read known_hosts: %w", err)
	}
	if entries == 0 {
		return nil, errors.New("read known_hosts: it has no entry; put the login nodes' keys there, for example from ssh-keyscan, after comparing their fingerprints")
	}
	h := &hostKeys{}
	for _, part := range []struct {
		text *bytes.Buffer
		to   *ssh.HostKeyCallback
	}{{&plain, &h.plain}, {&authorities, &h.authorities}} {
		// The library reads files only.
		f, err := os.CreateTemp("", "isthmus-known-hosts-")
		if err != nil {
			return nil, fmt.Errorf("read known_hosts: %w", err)
		}
		_, err = f.Write(part.text.Bytes())
		if err = errors.Join(err, f.Close()); err == nil {
			*part.to, err = knownhosts.New(f.Name())
		}
		_ = os.Remove(f.Name()) // it is a copy without secrets
		if err != nil {
			return nil, fmt.Errorf("read known_hosts: %w", err)
		}
	}
	// A key that is nobody's, to ask which ones a host may have.
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil, fmt.Errorf("read known_hosts: %w", err)
	}
	h.probe = probe
	return h, nil
}

// noAddress stands in where the connection has none: the name alone counts.
type noAddress struct{}

func (noAddress) Network() string { return "tcp" }
func (noAddress) String() string  { return "0.0.0.0:0" }

// algorithms are those that known_hosts allows for the host, address being
// host:port. Without any the host is unknown and must not be talked to. A server
// that offers others only cannot be negotiated with.
func (h *hostKeys) algorithms(address string) ([]string, error) {
	var out []string
	var wrong *knownhosts.KeyError
	if err := h.plain(address, noAddress{}, h.probe); errors.As(err, &wrong) {
		for _, k := range wrong.Want {
			if t := k.Key.Type(); t == ssh.KeyAlgoRSA {
				out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256) // never with SHA-1
			} else {
				out = append(out, t)
			}
		}
	}
	wrong = nil
	if err := h.authorities(address, noAddress{}, h.probe); errors.As(err, &wrong) && len(wrong.Want) > 0 {
		out = append(out, ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01,
			ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01)
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: known_hosts has no key for %s; add its line if it is the right host", ErrHostKey, knownhosts.Normalize(address))
	}
	return out, nil
}

// check is a host key callback.
func (h *hostKeys) check(address string, remote net.Addr, key ssh.PublicKey) error {
	check := h.plain
	if _, ok := key.(*ssh.Certificate); ok {
		check = h.authorities
	}
	if err := check(address, remote, key); err != nil {
		return fmt.Errorf("%w: %s presented %s, which is not what known_hosts has: %w",
			ErrHostKey, knownhosts.Normalize(address), ssh.FingerprintSHA256(key), err)
	}
	return nil
}
