package podstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host plays the hosts of pods: each Run is a connection to the runner of one.
type host struct {
	fail   transport.Result // what Run gives instead, when its Exit is not 0
	silent bool             // nothing announces itself
	hold   chan struct{}    // an exchange of the verb attach lasts until it is closed
	cut    chan struct{}    // closed, it loses all connections

	opened, closed chan string // rank of each connection

	mu   sync.Mutex
	argv [][]string
}

func newHost() *host {
	return &host{hold: make(chan struct{}), cut: make(chan struct{}), opened: make(chan string, 1000), closed: make(chan string, 1000)}
}

func (h *host) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	h.mu.Lock()
	h.argv = append(h.argv, c.Argv)
	h.mu.Unlock()
	if h.fail.Exit != 0 {
		return h.fail, nil
	}
	if h.silent {
		select {
		case <-ctx.Done():
		case <-h.cut:
		}
		return transport.Result{}, errors.New("connection reset")
	}
	h.opened <- c.Argv[2]
	defer func() { h.closed <- c.Argv[2] }()
	in, out := c.Stdin.(io.ReadCloser), c.Stdout.(io.WriteCloser)
	if _, err := io.WriteString(out, "Welcome to the cluster\n"); err != nil {
		return transport.Result{}, err
	}
	if err := stream.Hello(out); err != nil {
		return transport.Result{}, err
	}
	session, err := stream.Serve(stream.Carry(in, out, func() error { return errors.Join(in.Close(), out.Close()) }))
	if err != nil {
		return transport.Result{}, err
	}
	defer session.Close() //nolint:errcheck // it is over
	lost := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer lost()
	go func() {
		select {
		case <-h.cut:
			_ = session.Close()
		case <-session.CloseChan():
		}
	}()
	for {
		raw, err := session.Accept()
		if err != nil {
			return transport.Result{}, nil // the other side has closed it
		}
		go h.serve(stream.NewConn(raw))
	}
}

// serve answers one exchange: what was asked comes back as output.
func (h *host) serve(conn *stream.Conn) {
	defer conn.Close() //nolint:errcheck // the exchange is over
	f, err := conn.Read()
	var req stream.Request
	if err != nil || f.Decode(&req) != nil {
		return
	}
	_ = conn.Send(stream.KindReply, stream.Reply{Version: stream.Version})
	_ = conn.Write(stream.KindStdout, []byte(req.Container))
	if req.Verb == stream.VerbAttach {
		select {
		case <-h.hold:
		case <-h.cut:
		}
	}
	_ = conn.Send(stream.KindExit, stream.Exit{Code: 7})
}

func way(to Target) (backends.Entry, error) {
	if to.Host == "" {
		return backends.Entry{}, errors.New("the job has no such host")
	}
	return Network(to)
}

func pod(rank int) Target {
	return Target{Job: backends.JobRef{ID: "1", User: "alice"}, Rank: rank, Host: "n1", WorkDir: "/s/alice/g/k"}
}

// ask makes an exchange and gives what came of it.
func ask(ctx context.Context, p *Pool, to Target, verb string) error {
	var out bytes.Buffer
	exit, err := p.Do(ctx, to, stream.Request{Verb: verb, Container: "main"}, stream.IO{Stdout: &out})
	if err == nil && (exit.Code != 7 || out.String() != "main") {
		err = fmt.Errorf("code %d and %q", exit.Code, out.String())
	}
	return err
}

// got waits for something that a host tells.
func got(t *testing.T, what string, c <-chan string) string {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(90 * time.Second):
		t.Fatalf("no connection was %s within 90 s", what)
		return ""
	}
}

func end(t *testing.T, p *Pool) {
	t.Helper()
	p.Retire()
	p.Wait()
	if len(p.lines) != 0 {
		t.Errorf("%d connections are left", len(p.lines))
	}
}

func TestOneConnectionAPod(t *testing.T) {
	h := newHost()
	p := New(way, h)
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			if err := ask(t.Context(), p, pod(i%2), stream.VerbExec); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := len(h.opened); n != 2 {
		t.Errorf("%d connections to 2 pods", n)
	}
	if got, want := strings.Join(h.argv[0], " "), "/s/alice/g/k/podrun stream --rank="; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " --network /s/alice/g/k") {
		t.Errorf("command %q", got)
	}
	end(t, p)
}

// A connection outlives its last exchange by a while only, and is made again.
func TestIdleConnectionIsClosed(t *testing.T) {
	h := newHost()
	p := New(way, h)
	p.linger = time.Millisecond
	for range 3 {
		if err := ask(t.Context(), p, pod(0), stream.VerbExec); err != nil {
			t.Fatal(err)
		}
		got(t, "opened", h.opened)
		got(t, "closed", h.closed)
	}
	end(t, p)
}

// Why a pod cannot be reached is told to each who asks, and is tried anew.
func TestUnreachable(t *testing.T) {
	h := newHost()
	h.fail = transport.Result{Exit: 2, Stderr: []byte("srun: error: one\nsrun: error: Job step\x1b creation disabled\n")}
	p := New(way, h)
	for range 2 {
		err := ask(t.Context(), p, pod(0), stream.VerbExec)
		if err == nil || err.Error() != "reach host n1: /s/alice/g/k/podrun ended with code 2: srun: error: Job step  creation disabled" {
			t.Errorf("error %v", err)
		}
	}
	if n := len(h.argv); n != 2 {
		t.Errorf("tried %d times", n)
	}
	nowhere := pod(0)
	nowhere.Host = ""
	if err := ask(t.Context(), p, nowhere, stream.VerbExec); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("error %v", err)
	}
	end(t, p)
}

func TestCallerGoesWhileOpening(t *testing.T) {
	h := newHost()
	h.silent = true
	p := New(way, h)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ask(ctx, p, pod(0), stream.VerbExec); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(h.cut)
	end(t, p)
}

func TestLostConnection(t *testing.T) {
	h := newHost()
	p := New(way, h)
	answer := make(chan error)
	go func() { answer <- ask(t.Context(), p, pod(0), stream.VerbAttach) }()
	got(t, "opened", h.opened)
	h2 := newHost() // the next connection finds a host that is well
	p.mu.Lock()
	p.runner = h2
	p.mu.Unlock()
	close(h.cut)
	// The end of the exchange and that of its connection come in either order.
	if err := <-answer; err != nil && !errors.Is(err, stream.ErrLost) {
		t.Errorf("error %v", err)
	}
	got(t, "closed", h.closed)
	if err := ask(t.Context(), p, pod(0), stream.VerbExec); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	end(t, p)
}

// A Pool that is retired lets what is under way end, and begins nothing.
func TestRetire(t *testing.T) {
	h := newHost()
	p := New(way, h)
	answer := make(chan error)
	go func() { answer <- ask(t.Context(), p, pod(0), stream.VerbAttach) }()
	if err := ask(t.Context(), p, pod(1), stream.VerbExec); err != nil {
		t.Fatal(err)
	}
	got(t, "opened", h.opened)
	got(t, "opened", h.opened)
	p.Retire()
	if rank := got(t, "closed", h.closed); rank != "--rank=1" {
		t.Errorf("the connection that was closed is that of %s", rank)
	}
	if err := ask(t.Context(), p, pod(1), stream.VerbExec); !errors.Is(err, ErrRetired) {
		t.Errorf("error %v", err)
	}
	close(h.hold)
	if err := <-answer; err != nil {
		t.Errorf("the exchange under way: %v", err)
	}
	end(t, p)
}

// Whoever waits for its connection when the Pool is retired gets it.
func TestRetireWhileItOpens(t *testing.T) {
	h, opens := newHost(), make(chan struct{})
	p := New(func(to Target) (backends.Entry, error) { <-opens; return way(to) }, h)
	answer := make(chan error)
	go func() { answer <- ask(t.Context(), p, pod(0), stream.VerbExec) }()
	for { // until it is under way
		p.mu.Lock()
		n := len(p.lines)
		p.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	p.Retire()
	close(opens)
	if err := <-answer; err != nil {
		t.Errorf("the exchange under way: %v", err)
	}
	end(t, p)
}

func TestFull(t *testing.T) {
	h := newHost()
	h.silent = true
	p := New(way, h)
	var lines []*line
	for i := range maxOpen {
		l, err := p.take(pod(i))
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	if err := ask(t.Context(), p, pod(maxOpen), stream.VerbExec); !errors.Is(err, ErrFull) {
		t.Errorf("error %v", err)
	}
	close(h.cut)
	for i, l := range lines {
		<-l.ready
		p.giveBack(pod(i), l)
	}
	end(t, p)
}
