// Package transporttest is the conformance suite of transports: what every
// transport.Runner must do, whether it runs commands on this host or across a
// network. A new transport joins with one test that calls Run.
//
// The commands of the suite run on this very host in the end, so that it can see
// in /proc what is left of them.
package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
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
)

// Harness is one transport.
type Harness struct {
	// New gives a Runner that commands without a user work with; what it needs is
	// cleaned up at the end of the test.
	New func(t *testing.T) transport.Runner
	// User is another user of this host that commands can run as, "" for none.
	User string
	// UnknownUser is one that they cannot; "" is a name that nobody has.
	UnknownUser string
}

// script is a command that runs a constant shell text of the test.
func script(text string, args ...string) transport.Command {
	return transport.Command{Argv: append([]string{"/bin/sh", "-c", text, "sh"}, args...)}
}

type suite struct {
	Harness
	r transport.Runner
}

// Run runs the suite, one sub-test a rule.
func Run(t *testing.T, h Harness) {
	if h.UnknownUser == "" {
		h.UnknownUser = "isthmus-nobody-here"
	}
	for name, test := range map[string]func(*testing.T, suite){
		"StreamsAndExit": streamsAndExit, "ArgumentsArriveByteForByte": arguments, "EnvironmentIsTheCommandsOwn": environment,
		"StdoutStreams": stdoutStreams, "LargeInputAndOutput": large, "StdinThatBlocksDoesNotBlockRun": blockedStdin,
		"OutputLimit": outputLimit, "WriterThatFailsEndsTheCommand": failingWriter, "ContextKillsTheWholeGroup": contextKills,
		"ContextKillsWhatDoesNotRead": contextKillsDeaf, "NothingOutlivesTheCommand": nothingOutlives,
		"EscapedStreamDoesNotHang": escaped, "NotStarted": notStarted, "AsAnotherUser": anotherUser, "ManyAtOnce": manyAtOnce,
		"OnlyTheThreeStreams": descriptors,
	} {
		t.Run(name, func(t *testing.T) { test(t, suite{h, h.New(t)}) })
	}
}

func (s suite) run(t *testing.T, c transport.Command) transport.Result {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	res, err := s.r.Run(ctx, c)
	if err != nil {
		t.Fatalf("run %q: %v", c.Argv, err)
	}
	return res
}

func streamsAndExit(t *testing.T, s suite) {
	c := script(`cat; echo err >&2; exit 7`)
	c.Stdin = strings.NewReader("in\x00\xff")
	res := s.run(t, c)
	if string(res.Stdout) != "in\x00\xff" || string(res.Stderr) != "err\n" || res.Exit != 7 {
		t.Errorf("got %q, %q, exit %d", res.Stdout, res.Stderr, res.Exit)
	}
	res = s.run(t, script(`kill -9 $$`))
	if res.Exit != 128+9 || len(res.Stderr) != 0 {
		t.Errorf("death by signal 9 gives exit %d, %q", res.Exit, res.Stderr)
	}
	for _, exit := range []int{0, 1, 97, 98, 126, 127, 255} {
		if res := s.run(t, script(`exit "$1"`, strconv.Itoa(exit))); res.Exit != exit {
			t.Errorf("exit %d arrives as %d", exit, res.Exit)
		}
	}
	if res := s.run(t, script(`cat; printf x`)); string(res.Stdout) != "x" {
		t.Errorf("without standard input %q is read", res.Stdout)
	}
}

func arguments(t *testing.T, s suite) {
	for _, arg := range []string{
		"", " ", "a b", "$(id)", "`id`", "'", `"`, "\n", "\n\n", "x\n", "-n", "--", "\xff\xfe", "*", `\`, `\0101`, `\c`, "!", "!!", "~", "{a,b}", "a=b", "\x80\x81\x82\x88", "\r\t\v", "%s%b", "#", ";", "ä",
	} {
		c := script(`printf '%s' "$1" && printf '|%s' "$V"`, arg)
		c.Env = []string{"V=" + arg}
		if res := s.run(t, c); string(res.Stdout) != arg+"|"+arg {
			t.Errorf("%q arrives as %q", arg, res.Stdout)
		}
	}
	// All bytes but NUL, and the name of a directory.
	all := make([]byte, 0, 255)
	for b := 1; b < 256; b++ {
		all = append(all, byte(b))
	}
	dir := filepath.Join(t.TempDir(), `it's "a" $dir! \ `+"\n")
	if err := errors.Join(os.Mkdir(dir, 0o755), openUp(dir)); err != nil {
		t.Fatal(err)
	}
	c := script(`printf '%s' "$1"; pwd`, string(all))
	c.Dir = dir
	if res := s.run(t, c); string(res.Stdout) != string(all)+dir+"\n" {
		t.Errorf("arrives as %q", res.Stdout)
	}
	long := strings.Repeat("x", 100_000)
	if res := s.run(t, script(`printf '%s' "$1$2"`, long, long)); string(res.Stdout) != long+long {
		t.Errorf("200,000 bytes arrive as %d", len(res.Stdout))
	}
}

// openUp lets other users into a directory of t.TempDir.
func openUp(dir string) error {
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func environment(t *testing.T, s suite) {
	t.Setenv("DAEMON_SECRET", "canary")
	c := transport.Command{Argv: []string{"env"}, Env: []string{"A=1", "LC_ALL=C.UTF-8"}}
	got := strings.Fields(string(s.run(t, c).Stdout))
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
	// The command's own PATH is searched, in its order, past what is no program.
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "empty"), 0o755), os.Mkdir(filepath.Join(dir, "own"), 0o755),
		os.WriteFile(filepath.Join(dir, "empty", "printf"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "own", "printf"), []byte("#!/bin/sh\necho own\n"), 0o755),
		openUp(filepath.Join(dir, "own")), openUp(filepath.Join(dir, "empty"))); err != nil {
		t.Fatal(err)
	}
	c = transport.Command{Argv: []string{"printf"}, Env: []string{"PATH=" + dir + "/empty:" + dir + "/own:/usr/bin"}}
	if res := s.run(t, c); string(res.Stdout) != "own\n" {
		t.Errorf("the PATH of the command gives %q", res.Stdout)
	}
}

func stdoutStreams(t *testing.T, s suite) {
	read, write := io.Pipe()
	in, feed := io.Pipe()
	c := script(`echo one; read line; echo "two $line"`)
	c.Stdin, c.Stdout = in, write
	done := make(chan error, 1)
	go func() {
		_, err := s.r.Run(t.Context(), c)
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

func large(t *testing.T, s suite) {
	data := make([]byte, 5<<20+123)
	_, _ = rand.Read(data)
	c := transport.Command{Argv: []string{"cat"}, Stdin: bytes.NewReader(data)}
	if res := s.run(t, c); !bytes.Equal(res.Stdout, data) {
		t.Errorf("%d bytes come back as %d others", len(data), len(res.Stdout))
	}
}

// blocked is a reader that never gives anything until the test ends.
type blocked struct{ until <-chan struct{} }

func (b blocked) Read([]byte) (int, error) { <-b.until; return 0, io.EOF }

func blockedStdin(t *testing.T, s suite) {
	until := make(chan struct{})
	defer close(until)
	c := script(`echo done`)
	c.Stdin = blocked{until}
	if res := s.run(t, c); string(res.Stdout) != "done\n" {
		t.Errorf("got %q", res.Stdout)
	}
	c = script(`exit 0`) // does not read the megabytes it is given
	c.Stdin = bytes.NewReader(make([]byte, 4<<20))
	s.run(t, c)
	c = script(`exec <&-; sleep 0.2; echo done`) // closes it and goes on
	c.Stdin = bytes.NewReader(make([]byte, 4<<20))
	if res := s.run(t, c); string(res.Stdout) != "done\n" {
		t.Errorf("got %q", res.Stdout)
	}
}

func outputLimit(t *testing.T, s suite) {
	c := script(`while :; do echo 0123456789; done`)
	c.MaxOutput = 1000
	res, err := s.r.Run(t.Context(), c)
	if !errors.Is(err, transport.ErrOutputLimit) || errors.Is(err, transport.ErrNotStarted) || len(res.Stdout) > 1000 {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
	c = script(`i=0; while [ $i -lt 20000 ]; do echo 0123456789 >&2; i=$((i+1)); done; echo last >&2`)
	if res := s.run(t, c); len(res.Stderr) > 64<<10 || !strings.HasSuffix(string(res.Stderr), "last\n") {
		t.Errorf("%d bytes of stderr, end %q", len(res.Stderr), res.Stderr[max(0, len(res.Stderr)-20):])
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("the client is gone") }

func failingWriter(t *testing.T, s suite) {
	c := script(`while :; do echo x; done`)
	c.Stdout = failing{}
	if _, err := s.r.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "the client is gone") {
		t.Errorf("got %v", err)
	}
}

// started runs a command in the background and gives the number it prints first.
func (s suite) started(ctx context.Context, t *testing.T, c transport.Command) (int, <-chan error) {
	t.Helper()
	read, write := io.Pipe()
	c.Stdout = write
	done := make(chan error, 1)
	go func() {
		_, err := s.r.Run(ctx, c)
		_ = write.Close()
		done <- err
	}()
	buf := make([]byte, 64)
	n, err := read.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, read) }()
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	return pid, done
}

func contextKills(t *testing.T, s suite) {
	ctx, cancel := context.WithCancel(t.Context())
	child, done := s.started(ctx, t, script(`sleep 1000 & echo $!; trap '' TERM HUP INT; wait`))
	cancel()
	err := <-done
	if !errors.Is(err, context.Canceled) || errors.Is(err, transport.ErrNotStarted) {
		t.Errorf("got %v, want one that wraps Canceled: the outcome is unknown", err)
	}
	gone(t, child)
}

// A command that never reads the megabytes it is given is killed all the same.
func contextKillsDeaf(t *testing.T, s suite) {
	ctx, cancel := context.WithCancel(t.Context())
	c := script(`sleep 1000 & echo $!; trap '' TERM HUP INT; wait`)
	c.Stdin = bytes.NewReader(make([]byte, 16<<20))
	child, done := s.started(ctx, t, c)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(t, child)
}

// gone waits until the process is no more, or only a zombie.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
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

func nothingOutlives(t *testing.T, s suite) {
	res := s.run(t, script(`sleep 1000 & echo $!`))
	child, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout)))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, child)
}

func escaped(t *testing.T, s suite) {
	// setsid leaves the group with our pipe open; it ends by itself.
	start := time.Now()
	res := s.run(t, script(`setsid sleep 20 & exec echo $!`))
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("Run took %v", took)
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(res.Stdout))); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func notStarted(t *testing.T, s suite) {
	ended, stop := context.WithCancel(t.Context())
	stop()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := errors.Join(os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755), openUp(dir)); err != nil {
		t.Fatal(err)
	}
	if res := s.run(t, transport.Command{Argv: []string{"./program"}, Dir: dir}); res.Exit != 0 {
		t.Errorf("a program relative to the directory exits with %d: %s", res.Exit, res.Stderr)
	}
	for what, c := range map[string]struct {
		ctx context.Context
		cmd transport.Command
	}{
		"no program":       {t.Context(), transport.Command{}},
		"missing program":  {t.Context(), transport.Command{Argv: []string{"no-such-program"}}},
		"missing path":     {t.Context(), transport.Command{Argv: []string{"/no/such"}}},
		"missing dir":      {t.Context(), transport.Command{Argv: []string{"/bin/true"}, Dir: "/no/such"}},
		"a directory":      {t.Context(), transport.Command{Argv: []string{"/bin"}}},
		"not executable":   {t.Context(), transport.Command{Argv: []string{"/etc/passwd"}}},
		"NUL":              {t.Context(), transport.Command{Argv: []string{"/bin/echo", "a\x00b"}}},
		"bad environment":  {t.Context(), transport.Command{Argv: []string{"/bin/true"}, Env: []string{"A"}}},
		"relative in PATH": {t.Context(), transport.Command{Argv: []string{"program"}, Dir: dir, Env: []string{"PATH=.:"}}},
		"root":             {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "root"}},
		"a number":         {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "0"}},
		"unknown user":     {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: s.UnknownUser}},
		"an option":        {t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "--help"}},
		"ended context":    {ended, transport.Command{Argv: []string{"/bin/true"}}},
	} {
		in := strings.NewReader("read already, input")
		if _, err := io.CopyN(io.Discard, in, int64(len("read already, "))); err != nil {
			t.Fatal(err)
		}
		c.cmd.Stdin = in
		if res, err := s.r.Run(c.ctx, c.cmd); !errors.Is(err, transport.ErrNotStarted) {
			t.Errorf("%s: %+v, %v, want ErrNotStarted", what, res, err)
		}
		// The same command may be run again.
		if rest, err := io.ReadAll(in); string(rest) != "input" || err != nil {
			t.Errorf("%s: %q is left of the input, %v", what, rest, err)
		}
	}
}

func anotherUser(t *testing.T, s suite) {
	if s.User == "" {
		t.Skip("this transport has no other user here")
	}
	u, err := user.Lookup(s.User)
	if err != nil {
		t.Fatal(err)
	}
	c := script(`id -u; id -g; id -G; echo "$USER $LOGNAME $HOME"; pwd; cat /proc/self/status | grep CapEff; echo $$; read -r a b c d g r </proc/$$/stat; echo "$g"`)
	c.User = s.User
	lines := strings.Split(string(s.run(t, c).Stdout), "\n")
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
	if want := s.User + " " + s.User + " " + u.HomeDir; lines[3] != want || lines[4] != "/" {
		t.Errorf("identity %q in %q, want %q in /", lines[3], lines[4], want)
	}
	if !strings.HasSuffix(lines[5], "0000000000000000") {
		t.Errorf("the user's command has capabilities: %s", lines[5])
	}
	// What is killed of his is all of it, too.
	ctx, cancel := context.WithCancel(t.Context())
	c = script(`sleep 1000 & echo $!; trap '' TERM HUP INT; wait`)
	c.User = s.User
	child, done := s.started(ctx, t, c)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(t, child)
	c = script(`sleep 1000 & echo $!; trap '' TERM HUP INT; wait`)
	c.User, c.Stdin = s.User, bytes.NewReader(make([]byte, 16<<20))
	ctx, cancel = context.WithCancel(t.Context())
	child, done = s.started(ctx, t, c)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	gone(t, child)
}

// Many commands at once all get their own answers.
func manyAtOnce(t *testing.T, s suite) {
	const n = 40
	type answer struct {
		want, got string
		err       error
	}
	answers := make(chan answer, n)
	for i := range n {
		go func() {
			want := strconv.Itoa(i)
			c := script(`cat; printf '%s' "$1"`, want)
			c.Stdin = strings.NewReader(want + "-")
			res, err := s.r.Run(t.Context(), c)
			answers <- answer{want + "-" + want, string(res.Stdout), err}
		}()
	}
	for range n {
		if a := <-answers; a.err != nil || a.got != a.want {
			t.Errorf("got %q, %v, want %q", a.got, a.err, a.want)
		}
	}
}

func descriptors(t *testing.T, s suite) {
	for _, stdin := range []io.Reader{nil, strings.NewReader("x")} {
		c := transport.Command{Argv: []string{"ls", "/proc/self/fd"}, Stdin: stdin}
		got := strings.Fields(string(s.run(t, c).Stdout))
		// High ones are those of whoever started this test.
		got = slices.DeleteFunc(got, func(fd string) bool { return len(fd) > 1 })
		// The directory that ls reads is the fourth.
		if !slices.Equal(got, []string{"0", "1", "2", "3"}) {
			t.Errorf("the command has descriptors %v", got)
		}
	}
}
