package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// dial connects to the runner of rank 0 through `podrun stream`, as the
// provider does, with noise before the protocol.
func (b *bench) dial() (*stream.Client, *exec.Cmd) {
	b.t.Helper()
	if b.far {
		return b.dialBy(b.command("stream", "--rank=0", "--network", b.dir()))
	}
	return b.dialBy(b.command("stream", "--rank=0", b.dir()))
}

func (b *bench) dialBy(cmd *exec.Cmd) (*stream.Client, *exec.Cmd) {
	b.t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	c, err := stream.Dial(io.MultiReader(strings.NewReader("Welcome to the cluster\n"), out), in, func() error { return errors.Join(in.Close(), out.Close()) })
	if err != nil {
		_ = cmd.Wait()
		b.t.Fatalf("dial: %v: %s", err, &said)
	}
	b.t.Cleanup(func() {
		_ = c.Close()
		_ = cmd.Wait()
	})
	return c, cmd
}

func command(words ...string) [][]byte {
	out := make([][]byte, len(words))
	for i, w := range words {
		out[i] = []byte(w)
	}
	return out
}

func script(text string) stream.Request {
	return stream.Request{Verb: stream.VerbExec, Container: "main", Command: command("/bin/sh", "-c", text)}
}

// do carries an exchange out and gives its output.
func do(t *testing.T, c *stream.Client, req stream.Request, in io.Reader) (stdout, stderr string, exit stream.Exit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	exit, err := c.Do(ctx, req, stream.IO{Stdin: in, Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatalf("%s: %v", req.Verb, err)
	}
	return out.String(), errs.String(), exit
}

// sleeper runs a pod whose main container waits for its end.
func sleeper(t *testing.T, cs ...corev1.Container) *bench {
	t.Helper()
	b := newBench(t)
	b.far = strings.HasPrefix(t.Name(), "TestOverNetwork/")
	if len(cs) == 0 {
		cs = []corev1.Container{sh("main", "trap 'exit 0' TERM; sleep 1000 & wait")}
	}
	b.stage(one(cs...))
	r := b.startPod()
	until(t, "the container runs", func() bool { return b.runningNow(cs[0].Name) })
	t.Cleanup(func() {
		_, _, _ = b.agent([]byte(`{"key":"g1","stops":{"0":{"graceSeconds":0}}}`), "stop")
		if !t.Failed() {
			r.wait()
		}
	})
	return b
}

func TestExec(t *testing.T) {
	b := sleeper(t)
	c, _ := b.dial()
	for name, tc := range map[string]struct {
		req      stream.Request
		in       string
		out, err string
		code     int
	}{
		"zero":              {script("echo out; echo err >&2"), "", "out\n", "err\n", 0},
		"code":              {script("exit 3"), "", "", "", 3},
		"a signal":          {script("kill -9 $$"), "", "", "", 137},
		"shell's not found": {script("nosuchprogram 2>/dev/null"), "", "", "", 127},
		"input":             {script("cat; exit 4"), "some\x00bytes", "some\x00bytes", "", 4},
		"no input":          {script("cat"), "", "", "", 0},
		"environment":       {script("echo $HOME/$ISTHMUS_CONTAINER_ID"), "", b.env[1][5:] + "/host://uid-0/main/0\n", "", 0},
		"not a program":     {stream.Request{Verb: stream.VerbExec, Container: "main", Command: command("nosuchprogram")}, "", "", "not found in PATH", 127},
		"not executable":    {stream.Request{Verb: stream.VerbExec, Container: "main", Command: command("/etc/passwd")}, "", "", "permission denied", 126},
		"a daemon stays":    {script("setsid sleep 0.2 & echo on"), "", "on\n", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var in io.Reader
			if tc.in != "" {
				in = strings.NewReader(tc.in)
			}
			out, errs, exit := do(t, c, tc.req, in)
			if out != tc.out || !strings.Contains(errs, tc.err) || exit.Code != tc.code {
				t.Errorf("got %q, %q, code %d", out, errs, exit.Code)
			}
		})
	}
}

// What is refused names the reason.
func TestExecRefused(t *testing.T) {
	b := sleeper(t, sh("main", "sleep 1000"), sh("done", "exit 5"))
	c, _ := b.dial()
	until(t, "the second container has ended", func() bool { return !b.runningNow("done") })
	until(t, "its end is written", func() bool { s, _ := b.status(0); return s.Containers[1].State.Terminated != nil })
	for name, tc := range map[string]struct {
		req          stream.Request
		reason, says string
	}{
		"unknown container": {stream.Request{Verb: stream.VerbExec, Container: "none", Command: command("id")}, stream.ReasonNotFound, `container "none" not found`},
		"ended container":   {stream.Request{Verb: stream.VerbExec, Container: "done", Command: command("id")}, stream.ReasonNotRunning, "ended with exit code 5"},
		"no command":        {stream.Request{Verb: stream.VerbExec, Container: "main"}, stream.ReasonInvalid, "no command"},
		"a NUL":             {stream.Request{Verb: stream.VerbExec, Container: "main", Command: command("a\x00b")}, stream.ReasonInvalid, "NUL"},
		"no terminal":       {stream.Request{Verb: stream.VerbAttach, Container: "main", TTY: true}, stream.ReasonInvalid, "tty"},
		"a verb":            {stream.Request{Verb: "reboot"}, stream.ReasonInvalid, "reboot"},
		"a port":            {stream.Request{Verb: stream.VerbForward, Port: 70000}, stream.ReasonInvalid, "70000"},
		"a silent port":     {stream.Request{Verb: stream.VerbForward, Port: 1}, stream.ReasonNotRunning, "nothing listens"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.Do(t.Context(), tc.req, stream.IO{})
			var r *stream.Refusal
			if !errors.As(err, &r) || r.Reason != tc.reason || !strings.Contains(r.Message, tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Ten megabytes arrive unchanged both ways, beside a program that reads nothing.
func TestExecMuch(t *testing.T) {
	b := sleeper(t)
	c, _ := b.dial()
	ctx, cancel := context.WithCancel(t.Context())
	var stuck sync.WaitGroup
	stuck.Go(func() {
		_, _ = c.Do(ctx, script("sleep 1000"), stream.IO{Stdin: endless{}})
	})
	data := bytes.Repeat([]byte("0123456789abcde\n\x00\xff\r\n"), 10<<20/20)
	out, _, exit := do(t, c, script("cat"), bytes.NewReader(data))
	if exit.Code != 0 || out != string(data) {
		t.Errorf("%d bytes of %d came back, code %d", len(out), len(data), exit.Code)
	}
	cancel()
	stuck.Wait()
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// A terminal has a size, which changes, and one output.
func TestExecTerminal(t *testing.T) {
	b := sleeper(t)
	c, _ := b.dial()
	in, feed := io.Pipe()
	sizes := make(chan stream.Size, 1)
	out := &lines{}
	// A signal with a trap ends a shell's read: another process takes it.
	req := script(`test -t 0 && test -t 1 && test -t 2 && echo all; (trap 'stty size </dev/tty; exit' WINCH; echo ready; while :; do sleep 0.05; done) & tty >/dev/null && echo ctty >/dev/tty; echo $TERM; while read -r line; do echo "got $line"; done; exit 7`)
	req.TTY = true
	var exit stream.Exit
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		exit, err = c.Do(t.Context(), req, stream.IO{Stdin: in, Stdout: out, Resize: sizes})
	}()
	out.until(t, "all\r\n")
	out.until(t, "ctty\r\n")
	out.until(t, "xterm\r\n")
	out.until(t, "ready\r\n")
	sizes <- stream.Size{Width: 132, Height: 43}
	_, _ = feed.Write([]byte("hello\n"))
	out.until(t, "got hello\r\n")
	out.until(t, "43 132\r\n")
	_, _ = feed.Write([]byte{4})
	<-done
	if err != nil || exit.Code != 7 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// lines is output that a test waits for.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) until(t *testing.T, want string) {
	t.Helper()
	until(t, fmt.Sprintf("%q is seen", want), func() bool { return strings.Contains(l.text(), want) })
}

func TestAttach(t *testing.T) {
	main := sh("main", `while read -r line; do echo "got $line"; echo "err $line" >&2; done; echo bye`)
	main.Stdin, main.StdinOnce = true, true
	b := sleeper(t, main)
	c, _ := b.dial()
	in, feed := io.Pipe()
	watch, out, errs := &lines{}, &lines{}, &lines{}
	watched, done := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Do(t.Context(), stream.Request{Verb: stream.VerbAttach, Container: "main"}, stream.IO{Stdout: watch})
		watched <- err
	}()
	go func() {
		_, err := c.Do(t.Context(), stream.Request{Verb: stream.VerbAttach, Container: "main"}, stream.IO{Stdin: in, Stdout: out, Stderr: errs})
		done <- err
	}()
	_, _ = feed.Write([]byte("one\n"))
	out.until(t, "got one\n")
	errs.until(t, "err one\n")
	until(t, "the other sees it or came later", func() bool {
		_, _ = feed.Write([]byte("more\n"))
		return strings.Contains(watch.text(), "got more\n")
	})
	_ = feed.Close() // the first client's end is the end of the input
	for _, ch := range []chan error{done, watched} {
		if err := <-ch; err != nil {
			t.Error(err)
		}
	}
	out.until(t, "bye\n")
	if log := b.logs(0, "main"); !strings.Contains(log, "got one\n") || !strings.Contains(log, "bye\n") {
		t.Errorf("log %q", log)
	}
}

// A container with a terminal is one to attach to; its log has all of it.
func TestAttachTerminal(t *testing.T) {
	main := sh("main", `test -t 0 && echo ready; while read -r line; do echo "got $line"; stty size; done; echo bye`)
	main.Stdin, main.TTY = true, true
	b := sleeper(t, main)
	c, _ := b.dial()
	until(t, "the log has the start", func() bool { return strings.Contains(b.logs(0, "main"), "ready") })
	for _, name := range []string{"first", "second"} { // the input outlives a client
		in, feed := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		out, sizes := &lines{}, make(chan stream.Size, 1)
		done := make(chan error, 1)
		go func() {
			_, err := c.Do(ctx, stream.Request{Verb: stream.VerbAttach, Container: "main", TTY: true}, stream.IO{Stdin: in, Stdout: out, Resize: sizes})
			done <- err
		}()
		sizes <- stream.Size{Width: 99, Height: 21}
		until(t, "the size has changed", func() bool {
			_, _ = feed.Write([]byte(name + "\n"))
			return strings.Contains(out.text(), "got "+name+"\r\n") && strings.Contains(out.text(), "21 99\r\n")
		})
		cancel()
		<-done
	}
	if !b.runningNow("main") {
		t.Error("the container has ended with a client")
	}
}

// A port of the pod is reached both ways, half-closed, and many times at once.
func TestForward(t *testing.T) {
	server := `import socket,threading
s=socket.socket(); s.bind(("127.0.0.1",0)); s.listen(50); print(s.getsockname()[1],flush=True)
def one(c):
    data=b""
    while True:
        b=c.recv(65536)
        if not b: break
        data+=b
    c.sendall(b"got %d:"%len(data)+data); c.close()
while True:
    c,_=s.accept(); threading.Thread(target=one,args=(c,)).start()`
	b := sleeper(t, corev1.Container{Name: "main", Command: []string{"python3", "-c", server}})
	var port int
	until(t, "the server listens", func() bool {
		port, _ = strconv.Atoi(strings.TrimSpace(b.logs(0, "main")))
		return port > 0
	})
	c, _ := b.dial()
	data := bytes.Repeat([]byte{0, 1, 2, '\n', 0xff}, 200_000)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			out, _, _ := do(t, c, stream.Request{Verb: stream.VerbForward, Port: int32(port)}, bytes.NewReader(data))
			if out != fmt.Sprintf("got %d:", len(data))+string(data) {
				t.Errorf("%d bytes came back", len(out))
			}
		})
	}
	group.Wait()
	// What another user listens on is not the pod's.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if b.who.uid != os.Getuid() {
		_, err = c.Do(t.Context(), stream.Request{Verb: stream.VerbForward, Port: int32(l.Addr().(*net.TCPAddr).Port)}, stream.IO{})
		var r *stream.Refusal
		if !errors.As(err, &r) || !strings.Contains(r.Message, "another user") {
			t.Errorf("a foreign port gives %v", err)
		}
	}
}

// Many at once through one connection.
func TestExecManyAtOnce(t *testing.T) {
	b := sleeper(t)
	c, _ := b.dial()
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			out, _, exit := do(t, c, script(fmt.Sprintf("read x; echo $x; exit %d", i)), strings.NewReader(strconv.Itoa(i)+"\n"))
			if exit.Code != i || out != strconv.Itoa(i)+"\n" {
				t.Errorf("%d: %q, %d", i, out, exit.Code)
			}
		})
	}
	group.Wait()
}

// Without a runner there is a message, and no other user reaches one.
func TestStreamRefused(t *testing.T) {
	b := sleeper(t)
	cmd := b.command("stream", "--rank=1", b.dir())
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no runner of rank 1") {
		t.Errorf("%v: %s", err, out)
	}
	if b.who.cred == nil {
		t.Log("not root: there is no other user to try as")
		return
	}
	cmd = exec.Command(podrunPath, "stream", "--rank=0", b.dir())
	out, err = cmd.CombinedOutput() // as root, who may read the directory
	if err == nil || !strings.Contains(string(out), "peer is user") {
		t.Errorf("as another user: %v: %s", err, out)
	}
}

// What a container uses is in the status: its processes' time and memory, also
// that of processes which have ended, and nobody else's.
func TestUsage(t *testing.T) {
	b := sleeper(t,
		corev1.Container{Name: "busy", Command: []string{"python3", "-c", "import time\nb=bytearray(50<<20)\nwhile time.process_time()<1.5: pass\ntime.sleep(1000)"}},
		sh("idle", "exec sleep 1000"))
	var busy, idle manifest.Usage
	until(t, "both are measured", func() bool {
		s, _ := b.status(0)
		if len(s.Containers) < 2 || s.Containers[0].Usage == nil || s.Containers[1].Usage == nil {
			return false
		}
		busy, idle = *s.Containers[0].Usage, *s.Containers[1].Usage
		return busy.CPUNanos > 1e9
	})
	if busy.WorkingSetBytes < 50<<20 || busy.RSSBytes < 50<<20 || busy.CPUNanos > 20e9 {
		t.Errorf("busy: %+v", busy)
	}
	if idle.CPUNanos == 0 || idle.CPUNanos > 5e8 || idle.WorkingSetBytes == 0 || idle.WorkingSetBytes > 20<<20 {
		t.Errorf("idle: %+v", idle)
	}
}

// add hands added containers over.
func (b *bench) add(cs ...manifest.EphemeralContainer) {
	b.t.Helper()
	body, err := json.Marshal(manifest.Ephemeral{Version: manifest.Version, Containers: cs})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, stderr, code := b.agent(body, "ephemeral", "--key", "g1", "--rank", "0"); code != 0 {
		b.t.Fatalf("ephemeral: exit %d: %s", code, stderr)
	}
}

// Containers are added to a running pod: each runs once, is reached like any
// other, and ends with the pod.
func TestEphemeral(t *testing.T) {
	b := newBench(t)
	b.stage(one(sh("main", "until test -e $HOME/go; do sleep 0.05; done")))
	pod := b.startPod()
	until(t, "the container runs", func() bool { return b.runningNow("main") })
	shell := sh("shell", `echo "$A"; while read -r line; do echo "got $line"; done; sleep 1000`)
	shell.Stdin = true
	refused := sh("refused", "true")
	first := []manifest.EphemeralContainer{
		{Container: shell, Env: []manifest.EnvVar{{Name: "A", Value: []byte("b")}}},
		{Container: refused, Refused: "spec.ephemeralContainers[1]: not here"},
	}
	b.add(first...)
	state := func(name string) corev1.ContainerState {
		s, _ := b.status(0)
		for _, c := range s.Ephemeral {
			if c.Name == name {
				return c.State
			}
		}
		return corev1.ContainerState{}
	}
	until(t, "it runs", func() bool { return state("shell").Running != nil })
	until(t, "the other is refused", func() bool { return state("refused").Terminated != nil })
	if end := state("refused").Terminated; end.Reason != "CreateContainerError" || !strings.Contains(end.Message, "not here") {
		t.Errorf("refused: %+v", end)
	}
	if log := b.logs(0, "refused"); !strings.Contains(log, "not here") {
		t.Errorf("its log is %q", log)
	}
	c, _ := b.dial()
	out := &lines{}
	in, feed := io.Pipe()
	attached := make(chan error, 1)
	go func() {
		_, err := c.Do(t.Context(), stream.Request{Verb: stream.VerbAttach, Container: "shell"}, stream.IO{Stdin: in, Stdout: out})
		attached <- err
	}()
	until(t, "its input is reached", func() bool {
		_, _ = feed.Write([]byte("x\n"))
		return strings.Contains(out.text(), "got x\n")
	})
	if log := b.logs(0, "shell"); !strings.HasPrefix(log, "b\n") {
		t.Errorf("log %q", log)
	}
	if got, _, _ := do(t, c, stream.Request{Verb: stream.VerbExec, Container: "shell", Command: command("printenv", "A")}, nil); got != "b\n" {
		t.Errorf("exec in it: %q", got)
	}
	// A further one, beside those that are there.
	b.add(append(first, manifest.EphemeralContainer{Container: sh("second", "exit 6")})...)
	until(t, "the next one has ended", func() bool { end := state("second").Terminated; return end != nil && end.ExitCode == 6 })
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if code := pod.wait(); code != 0 {
		t.Errorf("the pod ended with %d", code)
	}
	<-attached
	s, _ := b.status(0)
	if s.Phase != manifest.PhaseSucceeded || len(s.Ephemeral) != 3 || s.Ephemeral[0].State.Terminated == nil || s.Ephemeral[0].RestartCount != 0 {
		t.Errorf("at the end %+v", s)
	}
}
