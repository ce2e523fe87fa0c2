package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// maxKeepalives is how many signs of life may stay unanswered.
const maxKeepalives = 3

// errRefused says that a server took none of the credentials.
var errRefused = fmt.Errorf("%w: the server took none of the credentials", transport.ErrDenied)

// stuckTime is how long a write may take before it counts as stuck.
const stuckTime = 300 * time.Millisecond

var errStuck = errors.New("the far end does not read")

// errRequest says that the server does not do that at all.
var errRequest = errors.New("the server refuses requests")

// conn is one connection to a login node, through the jump hosts.
type conn struct {
	client *ssh.Client
	hops   []io.Closer // jump connections, nearest first
	host   string
	ended  *once // the connection is of no more use
	used   atomic.Int64
	open   atomic.Int64 // sessions

	mu      sync.Mutex
	checked map[string]bool // users whose uid was seen not to be 0
	asking  chan struct{}   // a sign of life that is under way; closed when it came
	next    chan struct{}   // the one after that
}

// dialer makes connections.
type dialer struct {
	hosts    *hostKeys
	identity *identity
	timeout  time.Duration
	version  string
}

// dial connects to address as user through the jumps. No byte of a credential
// is sent to a host before its key was checked.
func (d *dialer) dial(ctx context.Context, user, address string, jumps []hop) (_ *conn, err error) {
	ctx, stop := context.WithTimeout(ctx, d.timeout)
	defer stop()
	c := &conn{host: address, ended: newOnce(), checked: map[string]bool{}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	// All hosts are looked up before the first is talked to.
	chain := append(append([]hop(nil), jumps...), hop{user: user, address: address})
	algorithms := make([][]string, len(chain))
	for i, h := range chain {
		if algorithms[i], err = d.hosts.algorithms(h.address); err != nil {
			return nil, err
		}
	}
	var via *ssh.Client
	for i, h := range chain {
		name := h.user
		if name == "" {
			name = user
		}
		client, err := d.hop(ctx, via, name, h.address, algorithms[i])
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", h.address, err)
		}
		if i < len(chain)-1 {
			c.hops = append(c.hops, client)
		}
		via = client
	}
	c.client = via
	return c, nil
}

// hop makes one connection of a chain.
func (d *dialer) hop(ctx context.Context, via *ssh.Client, user, address string, algorithms []string) (*ssh.Client, error) {
	var raw net.Conn
	var err error
	if via == nil {
		raw, err = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext(ctx, "tcp", address)
	} else {
		raw, err = via.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	verified := false
	config := &ssh.ClientConfig{
		User: user, HostKeyAlgorithms: algorithms, ClientVersion: d.version,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(d.identity.signers...)},
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			if via != nil {
				remote = noAddress{}
			}
			err := d.hosts.check(name, remote, key)
			verified = err == nil
			return err
		},
		BannerCallback: func(string) error { return nil }, // meant for people
	}
	// The handshake knows no context; a connection through a jump no deadline.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	link, channels, requests, err := ssh.NewClientConn(raw, address, config)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		return ssh.NewClient(link, channels, requests), nil
	}
	_ = raw.Close()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("no answer in time: %w", ctx.Err())
	case errors.Is(err, ErrHostKey):
		return nil, err
	case strings.Contains(err.Error(), "no common algorithm for host key"):
		return nil, fmt.Errorf("%w: the server has none of the host key algorithms that known_hosts allows (%s): %w",
			ErrHostKey, strings.Join(algorithms, ", "), err)
	case verified && refused(err):
		return nil, fmt.Errorf("%w for user %s: %w", errRefused, user, err)
	default:
		return nil, err
	}
}

// refused reports that a handshake failed because of the credentials. The
// library has no type for that; 2 and 14 are SSH_DISCONNECT_PROTOCOL_ERROR, which
// OpenSSH gives for too many tries, and NO_MORE_AUTH_METHODS_AVAILABLE.
func refused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "unable to authenticate") ||
		strings.Contains(text, "disconnect, reason 2:") || strings.Contains(text, "disconnect, reason 14:")
}

// close ends the connection at once.
func (c *conn) close() {
	c.ended.close()
	if c.client != nil {
		_ = c.client.Close()
	}
	for i := len(c.hops) - 1; i >= 0; i-- {
		_ = c.hops[i].Close()
	}
}

// dead reports that the connection has ended.
func (c *conn) dead() bool {
	select {
	case <-c.ended.c:
		return true
	default:
		return false
	}
}

// watch closes the connection when the peer is gone, does not answer, or nothing
// has used it for long. It returns then.
func (c *conn) watch(keepalive, idle time.Duration) {
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		_ = c.client.Wait()
	}()
	defer func() {
		c.close()
		<-lost
	}()
	tick := time.NewTicker(keepalive)
	defer tick.Stop()
	answers := make(chan struct{}, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-lost:
			return
		case <-c.ended.c:
			return
		case <-answers:
			waiting, missed = false, 0
			continue
		case <-tick.C:
		}
		if c.open.Load() == 0 && time.Since(time.Unix(0, c.used.Load())) > idle {
			return
		}
		if waiting {
			if missed++; missed >= maxKeepalives {
				return
			}
			continue
		}
		waiting = true
		go func() {
			// It answers or fails once the connection is closed.
			if _, _, err := c.client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
				answers <- struct{}{}
			}
		}()
	}
}

// settle blocks until the server has answered something that it was asked after
// the call. sshd frees a closed session only once it has dealt with all that it
// has received so far, so a session that is opened at once may still find it
// there. One question serves all who wait.
func (c *conn) settle() {
	c.mu.Lock()
	if c.asking != nil {
		// That one was asked before; the next will do.
		if c.next == nil {
			c.next = make(chan struct{})
		}
		next := c.next
		c.mu.Unlock()
		<-next
		return
	}
	c.asking = make(chan struct{})
	for c.asking != nil {
		c.mu.Unlock()
		_, _, _ = c.client.SendRequest("keepalive@openssh.com", true, nil) // a lost connection has no sessions
		c.mu.Lock()
		close(c.asking)
		c.asking, c.next = c.next, nil
		// Others may have come meanwhile: this one asks for them.
	}
	c.mu.Unlock()
}

// request is what a session is for.
type request struct{ kind, text string } // "exec" and a command line, "subsystem" and a name

// start opens a session.
func (c *conn) start(what request) (*channel, error) {
	ch, requests, err := c.client.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	s := &channel{Channel: ch, conn: c, over: newOnce(), gone: newOnce(), writing: make(chan struct{}, 1)}
	go s.serve(requests)
	ok, err := ch.SendRequest(what.kind, true, ssh.Marshal(struct{ Text string }{what.text}))
	if err == nil && !ok {
		err = fmt.Errorf("%w of kind %s", errRequest, what.kind)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// channel is a session of a conn.
type channel struct {
	ssh.Channel
	conn   *conn
	become string
	over   *once // exited
	gone   *once // the channel is closed on both sides
	status atomic.Bool

	// writing is held by whoever writes: the library's CloseWrite must not be
	// called beside Write.
	writing chan struct{}
	eof     bool
}

var _ session = (*channel)(nil)

// serve takes what the server tells of the command's end.
func (s *channel) serve(requests <-chan *ssh.Request) {
	for r := range requests {
		if r.Type == "exit-status" || r.Type == "exit-signal" {
			s.status.Store(true)
			s.over.close()
		}
		if r.WantReply {
			_ = r.Reply(false, nil)
		}
	}
	s.over.close()
	s.gone.close()
}

// Write implements session.
func (s *channel) Write(p []byte) (int, error) {
	s.writing <- struct{}{}
	defer func() { <-s.writing }()
	if s.eof {
		return 0, io.ErrClosedPipe
	}
	return s.Channel.Write(p)
}

// CloseWrite implements session. It fails when a Write is stuck because the far
// end does not read.
func (s *channel) CloseWrite() error {
	timer := time.NewTimer(stuckTime)
	defer timer.Stop()
	select {
	case s.writing <- struct{}{}:
	case <-timer.C:
		return errStuck
	}
	defer func() { <-s.writing }()
	s.eof = true
	return s.Channel.CloseWrite()
}

func (s *channel) stdout() io.Reader       { return s.Channel }
func (s *channel) stderr() io.Reader       { return s.Channel.Stderr() }
func (s *channel) exited() <-chan struct{} { return s.over.c }
func (s *channel) whole() bool             { return s.status.Load() }
func (s *channel) close()                  { _ = s.Channel.Close() }

func (s *channel) kill(ctx context.Context, group int) {
	k, err := s.conn.start(request{"exec", killLine(s.become, group)})
	if err != nil {
		return
	}
	defer k.close()
	select {
	case <-k.exited():
	case <-ctx.Done():
	}
}
