package local_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// script is a command that runs a constant shell text of the test.
func script(text string, args ...string) transport.Command {
	return transport.Command{Argv: append([]string{"/bin/sh", "-c", text, "sh"}, args...)}
}

func run(t *testing.T, c transport.Command) transport.Result {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	res, err := local.New().Run(ctx, c)
	if err != nil {
		t.Fatalf("run %q: %v", c.Argv, err)
	}
	return res
}

func TestStreamsAndExit(t *testing.T) {
	c := script(`cat; echo err >&2; exit 7`)
	c.Stdin = strings.NewReader("in\x00\xff")
	res := run(t, c)
	if string(res.Stdout) != "in\x00\xff" || string(res.Stderr) != "err\n" || res.Exit != 7 {
		t.Errorf("got %q, %q, exit %d", res.Stdout, res.Stderr, res.Exit)
	}
	if res := run(t, script(`kill -9 $$`)); res.Exit != 128+9 {
		t.Errorf("death by signal 9 gives exit %d", res.Exit)
	}
}

func TestArgumentsArriveByteForByte(t *testing.T) {
	for _, arg := range []string{"", " ", "a b", "$(id)", "`id`", "'", `"`, "\n", "-n", "--", "\xff\xfe", "*", `\`} {
		res := run(t, script(`printf '%s' "$1"`, arg))
		if string(res.Stdout) != arg {
			t.Errorf("%q arrives as %q", arg, res.Stdout)
		}
	}
}

func TestEnvironmentIsTheCommandsOwn(t *testing.T) {
	t.Setenv("DAEMON_SECRET", "canary")
	c := transport.Command{Argv: []string{"env"}, Env: []string{"A=1", "LC_ALL=C.UTF-8"}}
	got := strings.Fields(string(run(t, c).Stdout))
	names := map[string]string{}
	for _, e := range got {
		name, value, _ := strings.Cut(e, "=")
		names[name] = value
	}
	for _, want := range []string{"A", "PATH", "HOME", "USER", "LOGNAME", "LC_ALL"} {
		if names[want] == "" {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if names["LC_ALL"] != "C.UTF-8" || len(names) != 6 {
		t.Errorf("environment %v, want exactly the six with the given LC_ALL", got)
	}
}

func TestStdoutStreams(t *testing.T) {
	read, write := io.Pipe()
	in, feed := io.Pipe()
	c := script(`echo one; read line; echo "two $line"`)
	c.Stdin, c.Stdout = in, write
	done := make(chan error, 1)
	go func() {
		_, err := local.New().Run(t.Context(), c)
		_ = write.Close()
		done <- err
	}()
	buf := make([]byte, 64)
	n, err := read.Read(buf) // arrives while the command waits for its input
	if err != nil || string(buf[:n]) != "one\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if _, err := io.WriteString(feed, "go\n"); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(read)
	if err != nil || string(rest) != "two go\n" {
		t.Fatalf("then %q, %v", rest, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_ = feed.Close()
}

// blocked is a reader that never gives anything until the test ends.
type blocked struct{ until <-chan struct{} }

func (b blocked) Read([]byte) (int, error) { <-b.until; return 0, io.EOF }

func TestStdinThatBlocksDoesNotBlockRun(t *testing.T) {
	until := make(chan struct{})
	defer close(until)
	c := script(`echo done`)
	c.Stdin = blocked{until}
	if res := run(t, c); string(res.Stdout) != "done\n" {
		t.Errorf("got %q", res.Stdout)
	}
	c = script(`exit 0`) // does not read the megabytes it is given
	c.Stdin = bytes.NewReader(make([]byte, 4<<20))
	run(t, c)
}

func TestOutputLimit(t *testing.T) {
	c := script(`while :; do echo 0123456789; done`)
	c.MaxOutput = 1000
	res, err := local.New().Run(t.Context(), c)
	if !errors.Is(err, transport.ErrOutputLimit) || len(res.Stdout) > 1000 {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
	c = script(`i=0; while [ $i -lt 20000 ]; do echo 0123456789 >&2; i=$((i+1)); done; echo last >&2`)
	if res := run(t, c); len(res.Stderr) > 64<<10 || !strings.HasSuffix(string(res.Stderr), "last\n") {
		t.Errorf("%d bytes of stderr, end %q", len(res.Stderr), res.Stderr[len(res.Stderr)-20:])
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("the client is gone") }

func TestWriterThatFailsEndsTheCommand(t *testing.T) {
	c := script(`while :; do echo x; done`)
	c.Stdout = failing{}
	if _, err := local.New().Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the client is gone") {
		t.Errorf("got %v", err)
	}
}

func TestContextKillsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	c := script(`sleep 1000 & echo $!; trap '' TERM; wait`)
	c.Stdout = write
	done := make(chan error, 1)
	go func() {
		_, err := local.New().Run(ctx, c)
		done <- err
	}()
	buf := make([]byte, 64)
	n, err := read.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	err = <-done
	if !errors.Is(err, context.Canceled) || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got %v, want one that wraps Canceled: the outcome is unknown", err)
	}
	gone(t, child)
}

// gone waits until the process is no more, or only a zombie.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return
		}
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Errorf("process %d is still there", pid)
}

func TestNothingOutlivesTheCommand(t *testing.T) {
	res := run(t, script(`sleep 1000 & echo $!`))
	child, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout)))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, child)
}

func TestEscapedStreamDoesNotHang(t *testing.T) {
	// setsid leaves the group with our pipe open; it ends by itself.
	start := time.Now()
	res := run(t, script(`setsid sleep 20 & exec echo $!`))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Run took %v", took)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestNotStarted(t *testing.T) {
	ended, stop := context.WithCancel(t.Context())
	stop()
	for what, c := range map[string]struct {
		ctx context.Context
		cmd transport.Command
	}{
		"no program":       {t.Context(), transport.Command{}},
		"missing program":  {t.Context(), transport.Command{Argv: []string{"no-such-program"}}},
		"missing path":     {t.Context(), transport.Command{Argv: []string{"/no/such"}}},
		"missing dir":      {t.Context(), transport.Command{Argv: []string{"/bin/true"}, Dir: "/no/such"}},
		"NUL":              {t.Context(), transport.Command{Argv: []string{"/bin/echo", "a\x00b"}}},
		"bad environment":  {t.Context(), transport.Command{Argv: []string{"/bin/true"}, Env: []string{"A"}}},
		"relative in PATH": {t.Context(), transport.Command{Argv: []string{"local.go"}, Env: []string{"PATH=.:"}}},
		"root":             {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "root"}},
		"a number":         {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "0"}},
		"unknown user":     {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "isthmus-nobody-here"}},
		"an option":        {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "--help"}},
		"ended context":    {ended, transport.Command{Argv: []string{"/bin/true"}}},
	} {
		if _, err := local.New().Run(c.ctx, c.cmd); !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("%s: %v, want ErrNotStarted", what, err)
		}
	}
}

func TestAsMappedUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: another user's identity cannot be taken")
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	u, err := user.Lookup(account.Alice)
	if err != nil {
		t.Fatal(err)
	}
	c := script(`id -u; id -g; id -G; echo "$USER $LOGNAME $HOME"; pwd; cat /proc/self/status | grep CapEff`)
	c.User = account.Alice
	lines := strings.Split(string(run(t, c).Stdout), "\n")
	groups, err := u.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(lines[2])
	slices.Sort(got)
	slices.Sort(groups)
	if lines[0] != u.Uid || lines[1] != u.Gid || !slices.Equal(got, groups) {
		t.Errorf("runs as %q, want uid %s, gid %s, groups %v", lines[:3], u.Uid, u.Gid, groups)
	}
	if want := account.Alice + " " + account.Alice + " " + u.HomeDir; lines[3] != want || lines[4] != "/" {
		t.Errorf("identity %q in %q, want %q in /", lines[3], lines[4], want)
	}
	if !strings.HasSuffix(lines[5], "0000000000000000") {
		t.Errorf("the user's command has capabilities: %s", lines[5])
	}
}

func TestOtherUserNeedsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := local.New().Run(t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "nobody"})
		if !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), "not root") {
			t.Errorf("got %v", err)
		}
		return
	}
	// The same, from a copy of this test that runs as somebody else.
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "local-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	raw, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(copied, raw, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	res := run(t, transport.Command{User: account.Bob, Argv: []string{copied, "-test.run", "^TestOtherUserNeedsRoot$", "-test.v"}})
	if res.Exit != 0 || !strings.Contains(string(res.Stdout), "--- PASS") {
		t.Errorf("exit %d: %s%s", res.Exit, res.Stdout, res.Stderr)
	}
}
