package kubeletapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/utils/exec"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// protocolOf is the stream protocol that a client asks for at a path.
func protocolOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/portForward/"):
		return "portforward.k8s.io"
	case strings.HasPrefix(path, "/exec/"), strings.HasPrefix(path, "/attach/"):
		return "v4.channel.k8s.io"
	}
	return ""
}

// echo is a Streams. Exec understands a few commands; a port answers with what
// it gets.
type echo struct {
	mu      sync.Mutex
	here    int // exchanges under way
	refused error
}

func (e *echo) count(n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.here += n
}

func (e *echo) busy() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.here
}

func (e *echo) Exec(ctx context.Context, _ *corev1.Pod, container string, command []string, tty bool, s kubeletapi.StreamIO) (int, error) {
	e.count(1)
	defer e.count(-1)
	switch command[0] {
	case "cat":
		_, err := io.Copy(s.Stdout, s.Stdin)
		return 0, err
	case "both":
		fmt.Fprintf(s.Stdout, "out of %s", container)
		fmt.Fprintf(s.Stderr, "err of %s", container)
		return 3, nil
	case "size":
		size := <-s.Resize
		fmt.Fprintf(s.Stdout, "%dx%d %v %v", size.Width, size.Height, tty, s.Stderr == nil)
		return 0, nil
	case "wait":
		fmt.Fprint(s.Stdout, "waiting")
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return 0, errors.New("the host does not answer")
}

func (e *echo) Attach(_ context.Context, _ *corev1.Pod, container string, _ bool, s kubeletapi.StreamIO) error {
	_, err := fmt.Fprintf(s.Stdout, "attached to %s", container)
	return err
}

func (e *echo) Forward(ctx context.Context, _ *corev1.Pod, port int32, conn io.ReadWriter) error {
	e.count(1)
	defer e.count(-1)
	if port == 1 {
		return errors.New("nothing listens on port 1")
	}
	if port == 2 {
		<-ctx.Done()
		return ctx.Err()
	}
	_, err := io.Copy(conn, conn)
	return err
}

func (e *echo) Reachable(*corev1.Pod) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.refused
}

// restConfig is that of a Kubernetes client which talks to the server directly.
func (f *fixture) restConfig() *rest.Config {
	certPEM, keyPEM := f.ca.issue(f.t, "full", time.Now().Add(time.Hour))
	return &rest.Config{Host: f.url, TLSClientConfig: rest.TLSClientConfig{CertData: certPEM, KeyData: keyPEM, CAData: f.ca.pem()}}
}

func (f *fixture) at(path string) *url.URL {
	u, err := url.Parse(f.url + path)
	if err != nil {
		f.t.Fatal(err)
	}
	return u
}

// stream runs an exec or attach with the client library that kubectl uses.
func (f *fixture) stream(ctx context.Context, path string, o remotecommand.StreamOptions) error {
	x, err := remotecommand.NewSPDYExecutor(f.restConfig(), http.MethodPost, f.at(path))
	if err != nil {
		f.t.Fatal(err)
	}
	return x.StreamWithContext(ctx, o)
}

// one is a queue of one terminal size.
type one chan remotecommand.TerminalSize

func (o one) Next() *remotecommand.TerminalSize {
	s, ok := <-o
	if !ok {
		return nil
	}
	return &s
}

func TestExecStreams(t *testing.T) {
	f := serve(t, text(""))
	var out, errs bytes.Buffer
	err := f.stream(t.Context(), "/exec/team/p/main?command=both&output=1&error=1", remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	var code utilexec.ExitError
	if !errors.As(err, &code) || code.ExitStatus() != 3 || out.String() != "out of main" || errs.String() != "err of main" {
		t.Errorf("got %v, %q, %q", err, &out, &errs)
	}
	out.Reset()
	data := bytes.Repeat([]byte{0, 1, '\n', 255}, 1<<20)
	if err := f.stream(t.Context(), "/exec/team/p/main?command=cat&input=1&output=1", remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: &out}); err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%v, %d bytes came back", err, out.Len())
	}
	out.Reset()
	size := make(one, 1)
	size <- remotecommand.TerminalSize{Width: 120, Height: 40}
	err = f.stream(t.Context(), "/exec/team/p/main?command=size&output=1&tty=1&error=1", remotecommand.StreamOptions{Stdout: &out, Tty: true, TerminalSizeQueue: size})
	close(size)
	if err != nil || out.String() != "120x40 true true" {
		t.Errorf("%v, %q", err, &out)
	}
	if err := f.stream(t.Context(), "/exec/team/p/main?command=broken&output=1", remotecommand.StreamOptions{Stdout: &out}); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a broken way gives %v", err)
	}
	out.Reset()
	if err := f.stream(t.Context(), "/attach/team/p/main?output=1", remotecommand.StreamOptions{Stdout: &out}); err != nil || out.String() != "attached to main" {
		t.Errorf("attach: %v, %q", err, &out)
	}
}

// A websocket client of the fourth protocol version is served as well.
func TestExecWebsocket(t *testing.T) {
	f := serve(t, text(""))
	x, err := remotecommand.NewWebSocketExecutorForProtocols(f.restConfig(), http.MethodGet, f.at("/exec/team/p/main?command=both&output=1&error=1").String(), "v4.channel.k8s.io")
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	err = x.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	var code utilexec.ExitError
	if !errors.As(err, &code) || code.ExitStatus() != 3 || out.String() != "out of main" || errs.String() != "err of main" {
		t.Errorf("got %v, %q, %q", err, &out, &errs)
	}
}

// What cannot be is told before anything is opened.
func TestStreamRefusals(t *testing.T) {
	f := serve(t, text(""))
	full := identity{user: "full"}
	client := f.client(full)
	for path, want := range map[string]string{
		"/exec/team/none/main?command=id&output=1":        `404 pod "none" does not exist`,
		"/exec/team/p/none?command=id&output=1":           `404 container "none" not found in pod "p"`,
		"/exec/team/p/other-uid/main?command=id&output=1": `404 pod "p" does not exist`,
		"/exec/team/p/waits?command=id&output=1":          `400 container "waits" in pod "p" is waiting to start: Queued`,
		"/exec/team/p/main?output=1":                      `400 you must specify a command for exec`,
		"/exec/team/p/main?command=id":                    `400 you must specify at least 1 of stdin, stdout, stderr`,
		"/attach/team/p/waits?output=1":                   `400 container "waits" in pod "p" is waiting to start: Queued`,
		"/portForward/team/none":                          `404 pod "none" does not exist`,
	} {
		code, body := f.do(client, full, http.MethodPost, path)
		if got := fmt.Sprintf("%d %s", code, strings.TrimSpace(body)); got != want {
			t.Errorf("%s gives %q, want %q", path, got, want)
		}
	}
	f.streams.refused = &kubeletapi.Error{Code: http.StatusNotImplemented, Message: "no way in"}
	if code, body := f.do(client, full, http.MethodPost, "/portForward/team/p"); code != 501 || !strings.Contains(body, "no way in") {
		t.Errorf("%d %s", code, body)
	}
}

// A client that goes away ends its exchange, and so does the end of the server.
func TestStreamEnds(t *testing.T) {
	f := serve(t, text(""))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.stream(ctx, "/exec/team/p/main?command=wait&output=1", remotecommand.StreamOptions{Stdout: io.Discard})
	}()
	poll(t, "the exchange has begun", func() bool { return f.streams.busy() == 1 })
	cancel()
	poll(t, "the exchange has ended with its client", func() bool { return f.streams.busy() == 0 })
	<-done
	failed := make(chan error, 1)
	go func() {
		failed <- f.stream(t.Context(), "/exec/team/p/main?command=wait&output=1", remotecommand.StreamOptions{Stdout: io.Discard})
	}()
	poll(t, "the exchange has begun", func() bool { return f.streams.busy() == 1 })
	if err := f.shutdown(); err != nil {
		t.Error(err)
	}
	if n := f.streams.busy(); n != 0 {
		t.Errorf("%d exchanges outlive the server", n)
	}
	if err := <-failed; err == nil {
		t.Error("an exchange that was broken off ended well")
	}
}

// Streams to one pod are bounded.
func TestStreamLimit(t *testing.T) {
	f := serve(t, text(""))
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	const limit = 64
	for range limit {
		group.Go(func() {
			_ = f.stream(ctx, "/exec/team/p/main?command=wait&output=1", remotecommand.StreamOptions{Stdout: io.Discard})
		})
	}
	poll(t, "all have begun", func() bool { return f.streams.busy() == limit })
	full := identity{user: "full"}
	if code, body := f.do(f.client(full), full, http.MethodPost, "/exec/team/p/main?command=wait&output=1"); code != http.StatusTooManyRequests {
		t.Errorf("one more gives %d %s", code, body)
	}
	cancel()
	group.Wait()
	poll(t, "all have ended", func() bool { return f.streams.busy() == 0 })
	if err := f.stream(t.Context(), "/exec/team/p/main?command=cat&input=1&output=1", remotecommand.StreamOptions{Stdin: strings.NewReader("x"), Stdout: io.Discard}); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestPortForward(t *testing.T) {
	f := serve(t, text(""))
	transport, upgrader, err := spdy.RoundTripperFor(f.restConfig())
	if err != nil {
		t.Fatal(err)
	}
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, f.at("/portForward/team/p"))
	stop, ready := make(chan struct{}), make(chan struct{})
	var errs lockedBuffer
	fw, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:8080", "0:1", "0:2"}, stop, ready, io.Discard, &errs)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- fw.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := fw.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local)) //nolint:noctx // loopback
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			want := bytes.Repeat([]byte{byte(i), '\n'}, 100_000)
			go func() {
				_, _ = c.Write(want)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes came back: %v", len(got), err)
			}
		})
	}
	group.Wait()
	// A port that waits ends with the client.
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[2].Local)) //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	poll(t, "the port is reached", func() bool { return f.streams.busy() == 1 })
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	poll(t, "nothing is forwarded any more", func() bool { return f.streams.busy() == 0 })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
