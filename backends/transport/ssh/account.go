package ssh

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// account is one user who logs in.
type account struct {
	runner            *Runner
	user              string
	breaker           breaker
	commands, streams *line
}

func newAccount(r *Runner, user string) *account {
	a := &account{runner: r, user: user}
	a.commands, a.streams = newLine(a), newLine(a)
	return a
}

func (a *account) close() {
	a.commands.close()
	a.streams.close()
}

// session opens a session for a command line. done must be called when the
// session is no longer used. Errors mean that nothing was run.
func (a *account) session(ctx context.Context, stream bool, become string) (*channel, func(), error) {
	l := a.commands
	if stream {
		l = a.streams
	}
	s, done, err := l.session(ctx, request{"exec", commandLine(become)})
	if err != nil {
		return nil, nil, err
	}
	s.become = become
	return s, done, nil
}

// subsystem opens one of the server's subsystems; the rest is as with session.
func (a *account) subsystem(ctx context.Context, name string) (*channel, func(), error) {
	return a.streams.session(ctx, request{"subsystem", name})
}

func (l *line) session(ctx context.Context, what request) (*channel, func(), error) {
	if err := l.gate.enter(ctx); err != nil {
		return nil, nil, fmt.Errorf("wait for a free session (%d at a time): %w", l.gate.most, err)
	}
	s, err := l.open(ctx, what)
	if err != nil {
		return nil, nil, err
	}
	return s, func() {
		// sshd counts a session until its process has ended and both sides have
		// closed it.
		l.account.runner.routines.Go(func() {
			wait(s.over.c, drainTime)
			s.close()
			if wait(s.gone.c, drainTime) {
				s.conn.settle()
			}
			s.conn.used.Store(time.Now().UnixNano())
			s.conn.open.Add(-1)
			l.gate.leave()
		})
	}, nil
}

// line is one connection at a time, made when it is needed.
type line struct {
	account *account
	gate    *gate

	mu      sync.Mutex
	conn    *conn
	dialing *attempt
	closed  bool
}

// attempt is a connection in the making, which all who need it wait for.
type attempt struct {
	done chan struct{}
	stop context.CancelFunc
	conn *conn
	err  error
}

func newLine(a *account) *line {
	return &line{account: a, gate: newGate(a.runner.config.MaxSessions)}
}

func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	c, d := l.conn, l.dialing
	l.mu.Unlock()
	if d != nil {
		d.stop()
	}
	if c != nil {
		c.close()
	}
}

// open opens a session; the caller is inside the gate and stays there when it
// gets one. A connection that turns out to be dead is replaced: nothing was sent
// over the session yet.
func (l *line) open(ctx context.Context, what request) (*channel, error) {
	var last error
	for range 4 {
		c, err := l.connection(ctx)
		if err != nil {
			l.gate.leave()
			return nil, err
		}
		s, err := l.start(ctx, c, what)
		if err == nil {
			return s, nil
		}
		last = fmt.Errorf("open a session on %s: %w", c.host, err)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, errRequest) {
			break
		}
		var refused *ssh.OpenChannelError
		if !errors.As(err, &refused) {
			c.close()
			continue
		}
		if !l.gate.full() {
			// Not one session: with this connection it comes to nothing.
			c.close()
			continue
		}
		// Another has to end first.
		l.gate.leave()
		if err := l.gate.enter(ctx); err != nil {
			return nil, errors.Join(last, err)
		}
	}
	l.gate.leave()
	return nil, last
}

// start opens the session without waiting longer than ctx.
func (l *line) start(ctx context.Context, c *conn, what request) (*channel, error) {
	type opened struct {
		s   *channel
		err error
	}
	c.open.Add(1)
	got := make(chan opened, 1)
	go func() {
		s, err := c.start(what)
		got <- opened{s, err}
	}()
	select {
	case o := <-got:
		if o.err != nil {
			c.open.Add(-1)
		}
		return o.s, o.err
	case <-ctx.Done():
		// The answer may still come; the keepalive ends a connection without one.
		go func() {
			if o := <-got; o.s != nil {
				o.s.close()
			}
			c.open.Add(-1)
		}()
		return nil, ctx.Err()
	}
}

// connection gives the live connection or makes one.
func (l *line) connection(ctx context.Context) (*conn, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, errors.New("the transport is closed")
	}
	if l.conn != nil && !l.conn.dead() {
		defer l.mu.Unlock()
		return l.conn, nil
	}
	d := l.dialing
	if d == nil {
		// The first caller's context must not end what others wait for.
		dctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		d = &attempt{done: make(chan struct{}), stop: stop}
		l.dialing = d
		l.account.runner.routines.Go(func() {
			defer stop()
			l.dial(dctx, d)
		})
	}
	l.mu.Unlock()
	select {
	case <-d.done:
		return d.conn, d.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connect: %w", ctx.Err())
	}
}

// dial makes the connection and ends the attempt.
func (l *line) dial(ctx context.Context, d *attempt) {
	c, err := l.account.connect(ctx)
	l.mu.Lock()
	if err == nil && l.closed {
		c.close()
		err = errors.New("the transport is closed")
	}
	if err == nil {
		l.gate.reset()
		l.conn = c
		r := l.account.runner
		r.routines.Go(func() { c.watch(r.config.Keepalive, r.config.Idle) })
	} else {
		c = nil
	}
	d.conn, d.err, l.dialing = c, err, nil
	l.mu.Unlock()
	close(d.done)
}

// connect logs in to the first login node that works.
func (a *account) connect(ctx context.Context) (*conn, error) {
	r := a.runner
	text, err := r.config.KnownHosts(ctx)
	if err != nil {
		return nil, denied("known_hosts: %w", err)
	}
	keys, err := parseKnownHosts(text)
	if err != nil {
		return nil, denied("%w", err)
	}
	now := time.Now()
	try, spared := r.hosts.order(now)
	if len(try) == 0 {
		return nil, fmt.Errorf("no login node answers: %s", strings.Join(spared, "; "))
	}
	secret, err := r.config.Credentials(ctx, a.user)
	if err != nil {
		return nil, denied("credentials of %s: %w", a.user, err)
	}
	id, err := secret.open(ctx, now)
	if id != nil {
		defer id.close()
	}
	if err != nil {
		return nil, fmt.Errorf("credentials of %s: %w", a.user, err)
	}
	if err := a.breaker.allow(id.digest, now); err != nil {
		return nil, fmt.Errorf("log in as %s: %w", a.user, err)
	}
	d := dialer{hosts: keys, identity: id, timeout: r.config.ConnectTimeout, version: "SSH-2.0-Isthmus"}
	var failures []error
	for _, n := range try {
		c, err := d.dial(ctx, a.user, r.hosts.names[n], r.jumps)
		switch {
		case err == nil:
			a.breaker.worked()
			r.hosts.worked(n)
			c.used.Store(time.Now().UnixNano())
			return c, nil
		case errors.Is(err, errRefused):
			// Accounts are the same on all login nodes: one refusal is enough.
			a.breaker.refused(id.digest, err, time.Now())
			return nil, fmt.Errorf("log in as %s: %w", a.user, err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, ErrHostKey):
			err = fmt.Errorf("%w: %w", transport.ErrDenied, err)
			r.warn("login node %s is not used: %v", r.hosts.names[n], err)
		}
		r.hosts.failed(n, err, time.Now())
		failures = append(failures, err)
	}
	if len(spared) > 0 {
		failures = append(failures, errors.New(strings.Join(spared, "; ")))
	}
	return nil, fmt.Errorf("no login node answers: %w", errors.Join(failures...))
}
