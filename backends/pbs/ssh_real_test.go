package pbs_test

import (
	"context"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// The contract holds over SSH as it does on this host: a login node with the
// commands of PBS, from which the mapped users are reached by sudo. The first
// forgets ended jobs, so that records travel as well.
func TestConformanceOverSSH(t *testing.T) {
	for name, c := range map[string]struct {
		dialect pbs.Dialect
		config  testbed.Config
	}{
		"pbs":    {pbs.Pro, testbed.Config{}},
		"torque": {pbs.Torque, testbed.Config{Torque: true, KeepCompleted: time.Minute}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := standin(t, suiteConfig(c.config)) // skips where no stand-in can run
			conform(t, cluster, c.dialect, loginNode(t))
		})
	}
}

// loginNode is a real sshd on this host and a runner that goes through it.
func loginNode(t *testing.T) *ssh.Runner {
	t.Helper()
	if err := sshd.EnsureInstalled(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	server, err := sshd.Start(t.Context(), sshd.Config{Lines: []string{"Banner /etc/os-release"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Authorize(sshd.Dash, key.Public()); err != nil {
		t.Fatal(err)
	}
	runner, err := ssh.New(ssh.Config{
		Hosts: []string{server.Address}, User: sshd.Dash, Sudo: true,
		Credentials: func(context.Context, string) (ssh.Credentials, error) { return ssh.Credentials{Key: key.PEM}, nil },
		KnownHosts:  func(context.Context) ([]byte, error) { return []byte(server.KnownHosts()), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(runner.Close)
	return runner
}
