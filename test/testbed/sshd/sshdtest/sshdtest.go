// Package sshdtest gives tests a login node: an sshd of their own on this host.
package sshdtest

import (
	"context"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// Start starts a login node with a banner, which is stopped with the test.
func Start(t *testing.T) *sshd.Server {
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
	return server
}

// Runner goes through a login node of its own, from which the mapped users are reached
// by sudo.
func Runner(t *testing.T) *ssh.Runner {
	t.Helper()
	server := Start(t)
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
