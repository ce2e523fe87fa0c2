package ssh_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var install = sync.OnceValue(func() error { return sshd.EnsureInstalled(context.Background(), os.Stderr) })

// server starts a server, or skips the test where none can run.
func server(t *testing.T, config sshd.Config) *sshd.Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: a real sshd logs in as other users")
	}
	if err := install(); err != nil {
		t.Fatal(err)
	}
	s, err := sshd.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log := s.Log()
			t.Logf("end of the log of sshd on %s:\n%s", s.Address, log[max(0, len(log)-4000):])
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newKey(t *testing.T, kind string) sshd.Key {
	t.Helper()
	k, err := sshd.NewKey(kind)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// authorize lets all accounts of the testbed log in with the key.
func authorize(t *testing.T, s *sshd.Server, key sshd.Key) {
	t.Helper()
	for _, user := range []string{sshd.Dash, sshd.Bash, sshd.Tcsh} {
		if err := s.Authorize(user, key.Public()); err != nil {
			t.Fatal(err)
		}
	}
}

// config logs in to the server with the key.
func config(s *sshd.Server, key sshd.Key, user string) ssh.Config {
	return ssh.Config{
		Hosts: []string{s.Address}, User: user,
		Credentials: func(context.Context, string) (ssh.Credentials, error) { return ssh.Credentials{Key: key.PEM}, nil },
		KnownHosts:  func(context.Context) ([]byte, error) { return []byte(s.KnownHosts()), nil },
	}
}

func open(t *testing.T, c ssh.Config) *ssh.Runner {
	t.Helper()
	r, err := ssh.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// The whole contract holds with every login shell, with noise, without sftp,
// and through sudo.
func TestConformance(t *testing.T) {
	for _, tc := range []struct {
		name, login, user string
		sudo              bool
	}{
		{"dash", sshd.Dash, sshd.Bash, false},
		{"noisy bash", sshd.Bash, sshd.Tcsh, false},
		{"noisy tcsh", sshd.Tcsh, sshd.Dash, false},
		{"sudo", sshd.Dash, account.Alice, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key := newKey(t, sshd.ED25519)
			s := server(t, sshd.Config{Lines: []string{"Banner /etc/os-release"}})
			authorize(t, s, key)
			c := config(s, key, tc.login)
			c.Sudo = tc.sudo
			r := open(t, c)
			transporttest.Run(t, transporttest.Harness{
				New: func(*testing.T) transport.Runner { return r }, User: tc.user,
			})
		})
	}
}

func run(t *testing.T, r transport.Runner, argv ...string) (string, error) {
	t.Helper()
	res, err := r.Run(t.Context(), transport.Command{Argv: argv})
	return strings.TrimSpace(string(res.Stdout)), err
}
