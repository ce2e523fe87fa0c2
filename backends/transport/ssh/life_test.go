package ssh_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// logins counts what the server's log says was tried.
func logins(s *sshd.Server) (tried, accepted int) {
	log := s.Log()
	return strings.Count(log, "userauth-request for user"), strings.Count(log, "Accepted publickey for")
}

func eventually(t *testing.T, what string, look func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !look(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

// One connection carries all commands of a user; a lost one is replaced, and the
// command that was under way has an unknown outcome.
func TestReconnect(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	for range 3 {
		if _, err := run(t, r, "true"); err != nil {
			t.Fatal(err)
		}
	}
	if _, accepted := logins(s); accepted != 1 {
		t.Errorf("%d logins for three commands", accepted)
	}
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), transport.Command{Argv: []string{"sh", "-c", "echo $$; exec sleep 1000"}, Stdout: write})
		_ = write.Close()
		done <- err
	}()
	buf := make([]byte, 32)
	n, err := read.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	s.Cut()
	if err := <-done; err == nil || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("a command whose connection was cut gives %v", err)
	}
	pid := strings.TrimSpace(string(buf[:n]))
	eventually(t, "the command of the lost connection has ended", func() bool {
		_, err := os.Stat("/proc/" + pid)
		return errors.Is(err, os.ErrNotExist)
	})
	if out, err := run(t, r, "echo", "again"); err != nil || out != "again" {
		t.Errorf("after the cut: %q, %v", out, err)
	}
}

func TestIdleConnectionIsClosedAndMadeAnew(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	c := config(s, key, sshd.Dash)
	c.Keepalive, c.Idle = 50*time.Millisecond, 200*time.Millisecond
	r := open(t, c)
	if out, err := run(t, r, "sh", "-c", "sleep 1; echo here"); err != nil || out != "here" {
		t.Fatalf("a command that takes longer than the idle time: %q, %v", out, err)
	}
	eventually(t, "the idle connection is closed", func() bool { return len(s.Connections()) == 0 })
	if _, err := run(t, r, "true"); err != nil {
		t.Fatal(err)
	}
	if _, accepted := logins(s); accepted != 2 {
		t.Errorf("%d logins, want 2", accepted)
	}
}

// A peer that stops answering is given up by the keepalive.
func TestKeepalive(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	p := newProxy(t, s.Address)
	c := config(s, key, sshd.Dash)
	c.Hosts = []string{p.address}
	c.KnownHosts = func(context.Context) ([]byte, error) {
		return []byte(sshd.KnownHostsLine(p.address, s.Keys[sshd.ED25519].Signer.PublicKey())), nil
	}
	c.Keepalive, c.ConnectTimeout = 100*time.Millisecond, 3*time.Second
	r := open(t, c)
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), transport.Command{Argv: []string{"sh", "-c", "echo here; exec sleep 1000"}, Stdout: write})
		_ = write.Close()
		done <- err
	}()
	if _, err := read.Read(make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	p.silent.Store(true)
	if err := <-done; err == nil || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("a silent peer gives %v", err)
	}
	if _, err := r.Run(t.Context(), transport.Command{Argv: []string{"true"}}); !errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("a login node that does not answer gives %v", err)
	}
}

// A dead login node is passed over and spared; the good one is remembered.
func TestFailOver(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	first, second := server(t, sshd.Config{}), server(t, sshd.Config{})
	authorize(t, first, key)
	authorize(t, second, key)
	if err := first.Halt(); err != nil {
		t.Fatal(err)
	}
	c := config(first, key, sshd.Dash)
	c.Hosts = []string{first.Address, second.Address}
	c.KnownHosts = func(context.Context) ([]byte, error) { return []byte(first.KnownHosts() + second.KnownHosts()), nil }
	r := open(t, c)
	where := func() string {
		t.Helper()
		if _, err := run(t, r, "true"); err != nil {
			t.Fatal(err)
		}
		_, a := logins(first)
		_, b := logins(second)
		return fmt.Sprintf("%d+%d", a, b)
	}
	if w := where(); w != "0+1" {
		t.Errorf("with the first login node dead, logins are %s", w)
	}
	if err := first.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	second.Cut()
	eventually(t, "a command works after the cut", func() bool {
		_, err := run(t, r, "true")
		return err == nil
	})
	if w := where(); w != "0+2" {
		t.Errorf("the good login node is not kept: logins are %s", w)
	}
	if err := second.Halt(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a command works again, on the first", func() bool {
		_, err := run(t, r, "true")
		_, accepted := logins(first)
		return err == nil && accepted == 1
	})
	if err := first.Halt(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are dead, which is told with both names", func() bool {
		_, err := run(t, r, "true")
		return errors.Is(err, transport.ErrNotStarted) && !errors.Is(err, transport.ErrDenied) &&
			strings.Contains(err.Error(), first.Address) && strings.Contains(err.Error(), second.Address)
	})
}

// Commands go through a chain of hosts, each with its own user and key.
func TestProxyJump(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	outer, inner, target := server(t, sshd.Config{}), server(t, sshd.Config{}), server(t, sshd.Config{})
	for _, s := range []*sshd.Server{outer, inner, target} {
		authorize(t, s, key)
	}
	c := config(target, key, sshd.Dash)
	c.ProxyJump = []string{sshd.Bash + "@" + outer.Address, inner.Address}
	c.KnownHosts = func(context.Context) ([]byte, error) {
		return []byte(outer.KnownHosts() + inner.KnownHosts() + target.KnownHosts()), nil
	}
	r := open(t, c)
	if out, err := run(t, r, "id", "-un"); err != nil || out != sshd.Dash {
		t.Fatalf("through two hosts: %q, %v", out, err)
	}
	for name, s := range map[string]*sshd.Server{"outer": outer, "inner": inner, "target": target} {
		if _, accepted := logins(s); accepted != 1 {
			t.Errorf("%d logins at the %s host", accepted, name)
		}
	}
	outer.Cut()
	eventually(t, "a new chain is made", func() bool {
		_, err := run(t, r, "true")
		return err == nil
	})
}

// A server that bears few sessions is never asked for more than it bears for
// long, and nothing fails; streams do not starve commands.
func TestFewSessions(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{Lines: []string{"MaxSessions 2"}})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	ctx, stop := context.WithCancel(t.Context())
	var streams sync.WaitGroup
	for range 2 {
		read, write := io.Pipe()
		streams.Go(func() {
			_, _ = r.Run(ctx, transport.Command{Argv: []string{"sh", "-c", "echo here; exec sleep 1000"}, Stdout: write})
			_ = write.Close()
		})
		if _, err := read.Read(make([]byte, 32)); err != nil {
			t.Fatal(err)
		}
	}
	var group sync.WaitGroup
	for i := range 24 {
		group.Go(func() {
			if out, err := run(t, r, "echo", strconv.Itoa(i)); err != nil || out != strconv.Itoa(i) {
				t.Errorf("command %d: %q, %v", i, out, err)
			}
		})
	}
	group.Wait()
	stop()
	streams.Wait()
}

// With the defaults sshd's limit of ten is never met.
func TestSessionCap(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	var group sync.WaitGroup
	for range 60 {
		group.Go(func() {
			if _, err := run(t, r, "true"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if log := s.Log(); strings.Contains(log, "no more sessions") {
		t.Error("sshd refused a session")
	}
	if _, accepted := logins(s); accepted != 1 {
		t.Errorf("%d logins", accepted)
	}
}

// A login shell that only says no is told in its words, and the command
// certainly did not run.
func TestShellThatRefuses(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{Lines: []string{"ForceCommand echo This account is currently not available.; exit 1"}})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	_, err := run(t, r, "true")
	if !errors.Is(err, transport.ErrNotStarted) || !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "currently not available") {
		t.Errorf("got %v", err)
	}
	s = server(t, sshd.Config{Lines: []string{"ForceCommand yes noise"}})
	authorize(t, s, key)
	r = open(t, config(s, key, sshd.Dash))
	if _, err := run(t, r, "true"); err == nil || !strings.Contains(err.Error(), "noise") {
		t.Errorf("endless noise gives %v", err)
	}
}

func TestSudoThatIsRefused(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	c := config(s, key, sshd.Bash) // sudoers does not know him
	c.Sudo = true
	r := open(t, c)
	_, err := r.Run(t.Context(), transport.Command{User: account.Alice, Argv: []string{"true"}})
	if !errors.Is(err, transport.ErrNotStarted) || !errors.Is(err, transport.ErrDenied) || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("got %v", err)
	}
}

// Half of an input never passes for a whole one.
func TestInputThatFails(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	dir := t.TempDir()
	file := filepath.Join(dir, "done")
	if err := errors.Join(os.Chmod(dir, 0o777), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	in, feed := io.Pipe()
	go func() {
		_, _ = feed.Write([]byte("half"))
		_ = feed.CloseWithError(errors.New("the source broke"))
	}()
	_, err := r.Run(t.Context(), transport.Command{Argv: []string{"sh", "-c", `cat >/dev/null; : >"$1"`, "sh", file}, Stdin: in})
	if err == nil || !strings.Contains(err.Error(), "the source broke") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the command went on with half of its input: %v", err)
	}
}

func TestEnsureProgram(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	dir, err := os.MkdirTemp("", "isthmus-ssh-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "podrun")
	text := append([]byte("#!/bin/sh\necho installed\nexit 0\n"), bytes.Repeat([]byte("x"), 3<<20)...)
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	digest := hex.EncodeToString(sum[:])
	for _, tc := range []struct {
		name, user string
		noSFTP     bool
		lines      []string
	}{
		{name: "sftp", user: sshd.Dash},
		{name: "no sftp", user: sshd.Bash, noSFTP: true},
		{name: "sftp sees other directories", user: sshd.Tcsh, lines: []string{"Subsystem sftp internal-sftp -d /nowhere -P open"}},
		{name: "sudo", user: account.Alice},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := server(t, sshd.Config{NoSFTP: tc.noSFTP || tc.lines != nil, Lines: tc.lines})
			authorize(t, s, key)
			c := config(s, key, sshd.Dash)
			c.Sudo = tc.user == account.Alice
			r := open(t, c)
			root := filepath.Join(dir, tc.user)
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					file, err := r.EnsureProgram(t.Context(), tc.user, root, program, digest)
					if err != nil {
						t.Error(err)
						return
					}
					res, err := r.Run(t.Context(), transport.Command{User: tc.user, Argv: []string{file}})
					if err != nil || string(res.Stdout) != "installed\n" {
						t.Errorf("the program gives %q, %v", res.Stdout, err)
					}
				})
			}
			group.Wait()
			entries, err := os.ReadDir(filepath.Join(root, "bin"))
			if err != nil || len(entries) != 1 || entries[0].Name() != "podrun-"+digest[:12] {
				t.Fatalf("bin holds %v, %v", entries, err)
			}
			for _, path := range []string{root, filepath.Join(root, "bin"), filepath.Join(root, "bin", entries[0].Name())} {
				if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
					t.Errorf("%s: %v, %v", path, info.Mode(), err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(root, "bin", entries[0].Name())); err != nil || !bytes.Equal(got, text) {
				t.Errorf("%d bytes were installed of %d, %v", len(got), len(text), err)
			}
			uploads := strings.Count(s.Log(), "Starting session: subsystem 'sftp'")
			if want := map[string]int{"sftp": 1, "no sftp": 0, "sftp sees other directories": 1, "sudo": 0}[tc.name]; uploads != want {
				t.Errorf("sftp was asked for %d times, want %d", uploads, want)
			}
			// Gone, and looked for again.
			if err := os.Remove(filepath.Join(root, "bin", entries[0].Name())); err != nil {
				t.Fatal(err)
			}
			r.ForgetPrograms(tc.user)
			if _, err := r.EnsureProgram(t.Context(), tc.user, root, program, digest); err != nil {
				t.Error(err)
			}
			// Somebody else's directory, and one behind a link, are refused.
			theirs, link := filepath.Join(dir, "theirs-"+tc.user), filepath.Join(dir, "link-"+tc.user)
			if err := errors.Join(os.Mkdir(theirs, 0o777), os.Symlink(root, link)); err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{theirs, link} {
				if _, err := r.EnsureProgram(t.Context(), tc.user, bad, program, digest); !errors.Is(err, transport.ErrDenied) {
					t.Errorf("%s: %v", bad, err)
				}
			}
			// What is not what the digest says is not installed.
			wrong := strings.Repeat("0", 64)
			if _, err := r.EnsureProgram(t.Context(), tc.user, root, program, wrong); err == nil {
				t.Error("a program with another digest was installed")
			}
			if entries, err := os.ReadDir(filepath.Join(root, "bin")); err != nil || len(entries) != 1 {
				t.Errorf("bin holds %v, %v", entries, err)
			}
		})
	}
}

// Secrets in the environment and the marker show in no process list.
func TestNothingShowsInProcessLists(t *testing.T) {
	key := newKey(t, sshd.ED25519)
	s := server(t, sshd.Config{})
	authorize(t, s, key)
	r := open(t, config(s, key, sshd.Dash))
	const canary = "canary-7f3a91"
	read, write := io.Pipe()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.Run(ctx, transport.Command{Argv: []string{"sh", "-c", "echo here; exec sleep 1000"}, Env: []string{"TOKEN=" + canary}, Stdout: write})
		_ = write.Close()
	}()
	if _, err := read.Read(make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "ps", "-eo", "args", "-ww").Output()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out, []byte(canary)) || bytes.Contains(out, []byte("isthmus-0")) {
		t.Errorf("the process list shows it:\n%s", out)
	}
	stop()
	<-done
	if strings.Contains(s.Log(), canary) {
		t.Error("sshd's log shows it")
	}
}
