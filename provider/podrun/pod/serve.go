package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

const (
	// maxExchanges bounds what is under way in one pod.
	maxExchanges = 128
	// maxConnections bounds who may be connected.
	maxConnections = 16
	// lastWords is how long exchanges may still tell their ends when the pod has
	// ended.
	lastWords = 3 * time.Second
)

// server takes the provider's requests while the pod lives.
type server struct {
	r      *runner
	l      net.Listener
	ctx    context.Context // until the pod has ended
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections
	busy   sync.WaitGroup // exchanges
	slots  chan struct{}
	lines  chan struct{}
	once   sync.Once

	network net.Listener // nil unless it listens on the network
	left    string       // the file that tells of it
}

// serve begins to take requests on l.
func (r *runner) serve(l net.Listener) *server {
	s := &server{r: r, l: l, slots: make(chan struct{}, maxExchanges), lines: make(chan struct{}, maxConnections)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s
}

// close lets exchanges tell their ends for a moment and ends all. The listener
// stays: it is the lock of the pod.
func (s *server) close() { s.once.Do(s.end) }

func (s *server) end() {
	told := make(chan struct{})
	go func() { s.busy.Wait(); close(told) }()
	timer := time.NewTimer(lastWords)
	defer timer.Stop()
	select {
	case <-told:
	case <-timer.C:
	}
	s.cancel()
	if d, ok := s.l.(interface{ SetDeadline(time.Time) error }); ok {
		_ = d.SetDeadline(time.Now()) // wakes accept
	}
	if s.left != "" {
		_ = s.r.gang.Remove(s.left) // its secret opens nothing any more
	}
	if s.network != nil {
		_ = s.network.Close()
	}
	s.wg.Wait()
	<-told
}

func (s *server) accept() {
	for {
		c, err := s.l.Accept()
		if s.ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // too late
			}
			return
		}
		if err != nil {
			s.r.warn(fmt.Errorf("accept: %w", err))
			return
		}
		u, ok := c.(*net.UnixConn)
		if !ok || stream.Own(u) != nil {
			_ = c.Close() // not of our user
			continue
		}
		select {
		case s.lines <- struct{}{}:
		default:
			_ = c.Close() // more than any provider needs
			continue
		}
		s.wg.Go(func() {
			defer func() { <-s.lines }()
			s.connection(u)
		})
	}
}

// connection serves one connection until it ends or the pod does.
func (s *server) connection(c net.Conn) {
	defer func() { _ = c.Close() }()
	if err := stream.Hello(c); err != nil {
		return // gone already
	}
	session, err := stream.Serve(stream.Carry(c, c, c.Close))
	if err != nil {
		s.r.warn(err)
		return
	}
	stop := context.AfterFunc(s.ctx, func() { _ = session.Close() })
	defer stop()
	ctx, cancel := context.WithCancel(s.ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	defer func() { _ = session.Close() }()
	for {
		raw, err := session.Accept()
		if err != nil {
			return
		}
		s.busy.Add(1)
		group.Go(func() {
			defer s.busy.Done()
			conn := stream.NewConn(raw)
			defer func() { _ = conn.Close() }()
			s.exchange(ctx, conn)
		})
	}
}

// refusal is why a request is not served.
func refusal(reason, format string, args ...any) error {
	return &stream.Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// exchange serves one request.
func (s *server) exchange(ctx context.Context, conn *stream.Conn) {
	f, err := conn.Read()
	if err != nil || f.Kind != stream.KindRequest {
		return
	}
	var req stream.Request
	err = f.Decode(&req)
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		err = refusal(stream.ReasonBusy, "%d exchanges with this pod are under way, and that is the limit", maxExchanges)
	}
	switch {
	case err != nil:
	case req.Version != stream.Version:
		err = refusal(stream.ReasonInvalid, "the request has version %d, this runner knows %d", req.Version, stream.Version)
	case req.Verb == stream.VerbExec:
		err = s.exec(ctx, conn, req)
	case req.Verb == stream.VerbAttach:
		err = s.attach(ctx, conn, req)
	case req.Verb == stream.VerbForward:
		err = s.forward(ctx, conn, req)
	default:
		err = refusal(stream.ReasonInvalid, "verb %q is not known", req.Verb)
	}
	if err == nil {
		return
	}
	reply := stream.Reply{Version: stream.Version, Reason: stream.ReasonFailed, Message: err.Error()}
	var r *stream.Refusal
	if errors.As(err, &r) {
		reply.Reason = r.Reason
	}
	_ = conn.Send(stream.KindReply, reply) // one that has gone needs no reason
}

// accepted tells the other side that its request is being served.
func accepted(conn *stream.Conn) error {
	return conn.Send(stream.KindReply, stream.Reply{Version: stream.Version})
}

// all lists the containers.
func (r *runner) all() []*container {
	r.listMu.Lock()
	defer r.listMu.Unlock()
	return slices.Concat(r.inits, r.mains, r.ephemerals)
}

// container finds a container by name.
func (r *runner) container(name string) *container {
	for _, c := range r.all() {
		if c.spec.Name == name {
			return c
		}
	}
	return nil
}

// find gives the container of a request and its present run.
func (s *server) find(name string) (*container, *present, error) {
	c := s.r.container(name)
	if c == nil {
		return nil, nil, refusal(stream.ReasonNotFound, "container %q not found in pod %q", name, s.r.spec.Pod.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		return nil, nil, refusal(stream.ReasonNotRunning, "container %q of pod %q is not running: %s", name, s.r.spec.Pod.Name, c.words())
	}
	return c, c.now, nil
}

// words says in which state a container is that does not run.
func (c *container) words() string {
	var st corev1.ContainerState
	c.pod.status.View(func(s *manifest.Status) { st = c.slot(s).State })
	switch {
	case st.Terminated != nil:
		return fmt.Sprintf("it has ended with exit code %d (%s)", st.Terminated.ExitCode, st.Terminated.Reason)
	case st.Waiting != nil:
		return "it waits (" + st.Waiting.Reason + ")"
	}
	return "it is about to start"
}

// reader takes frames until the other side has gone, and then calls gone.
func reader(conn *stream.Conn, in *stream.Input, resize func(stream.Size), gone func()) {
	defer gone()
	defer in.End()
	for {
		f, err := conn.Read()
		if err != nil {
			return
		}
		switch f.Kind {
		case stream.KindStdin:
			if !in.Put(f.Data) {
				return // a peer that breaks the rules is as good as gone
			}
		case stream.KindEOF:
			in.EOF()
		case stream.KindResize:
			var size stream.Size
			if f.Decode(&size) == nil && resize != nil {
				resize(size)
			}
		default:
			return
		}
	}
}
