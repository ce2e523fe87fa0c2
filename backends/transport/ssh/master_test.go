package ssh_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// person opens a master connection as a person does at a site with a second
// factor, and gives its control path and a way to end it.
func person(t *testing.T, s *sshd.Server, key sshd.Key, user string) (controlPath string, end func()) {
	t.Helper()
	dir := t.TempDir()
	known, identity, control := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "id"), filepath.Join(dir, "control")
	if err := errors.Join(os.WriteFile(known, []byte(s.KnownHosts()), 0o600), os.WriteFile(identity, key.PEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh", "-F", "none", "-M", "-N", "-S", control, "-o", "UserKnownHostsFile="+known,
		"-o", "StrictHostKeyChecking=yes", "-i", identity, "-p", port, "-l", user, host)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.Remove(control) // as a master that ends well does
	})
	t.Cleanup(end)
	eventually(t, "the master connection is there", func() bool {
		c, err := net.Dial("unix", control)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return control, end
}

func openMaster(t *testing.T, c ssh.MasterConfig) *ssh.Master {
	t.Helper()
	m, err := ssh.NewMaster(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func TestMasterConformance(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	control, _ := person(t, s, key, sshd.Dash)
	m := openMaster(t, ssh.MasterConfig{ControlPath: control, User: sshd.Dash, Sudo: true})
	transporttest.Run(t, transporttest.Harness{New: func(*testing.T) transport.Runner { return m }, User: account.Alice})
	if strings.Contains(s.Log(), "no more sessions") {
		t.Error("sshd refused a session")
	}
}

// Without the person's connection nothing is run, nobody logs in, and the error
// says what to do; a new one at the same place is used at once.
func TestMasterThatIsGone(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	control, end := person(t, s, key, sshd.Bash)
	m := openMaster(t, ssh.MasterConfig{ControlPath: control, User: sshd.Bash})
	if out, err := run(t, m, "id", "-un"); err != nil || out != sshd.Bash {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := m.Run(t.Context(), transport.Command{User: sshd.Dash, Argv: []string{"true"}}); !errors.Is(err, transport.ErrDenied) {
		t.Errorf("another user's command over the person's connection: %v", err)
	}
	end()
	tried, _ := logins(s)
	for range 5 {
		_, err := run(t, m, "true")
		if !errors.Is(err, transport.ErrDenied) || !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), "log in again") {
			t.Fatalf("without a master: %v", err)
		}
	}
	if now, _ := logins(s); now != tried {
		t.Errorf("somebody tried to log in %d times", now-tried)
	}
	again, _ := person(t, s, key, sshd.Bash)
	if err := os.Symlink(again, control); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, m, "echo", "again"); err != nil || out != "again" {
		t.Errorf("%q, %v", out, err)
	}
}
