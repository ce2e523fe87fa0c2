package stream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/hashicorp/yamux"
)

// Client is the provider's side of a connection. All methods may be called
// concurrently.
type Client struct {
	session *yamux.Session
}

// Dial waits for the runner's side to announce itself on r. closeBoth must make
// reads and writes fail. When nothing of the protocol comes, the error holds
// what came instead.
func Dial(r io.Reader, w io.Writer, closeBoth func() error) (*Client, error) {
	in := bufio.NewReader(r)
	noise, err := await(in)
	if err != nil {
		if text := strings.TrimSpace(strings.ToValidUTF8(string(noise), "?")); text != "" {
			return nil, fmt.Errorf("%w: %.512q", err, text)
		}
		return nil, err
	}
	s, err := yamux.Client(Carry(in, w, closeBoth), settings())
	if err != nil {
		return nil, fmt.Errorf("begin session: %w", err)
	}
	return &Client{session: s}, nil
}

// Done is closed once the connection is lost or closed.
func (c *Client) Done() <-chan struct{} { return c.session.CloseChan() }

// Close ends the connection with all its exchanges.
func (c *Client) Close() error { return c.session.Close() }

// IO are the caller's ends of an exchange; nil fields are not connected.
type IO struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Resize         <-chan Size
}

// ErrLost says that the connection went away in the middle of an exchange.
var ErrLost = errors.New("the connection to the pod's host was lost")

// Do carries out one exchange and blocks until it has ended. A runner that
// declines gives a *Refusal. When ctx ends, what was started is killed. A Read
// of Stdin may still be under way when it returns.
func (c *Client) Do(ctx context.Context, req Request, streams IO) (Exit, error) {
	raw, err := c.session.Open()
	if err != nil {
		return Exit{}, fmt.Errorf("%w: %w", ErrLost, err)
	}
	conn := NewConn(raw)
	defer func() { _ = conn.Close() }() // the end of the exchange either way
	stop := context.AfterFunc(ctx, func() { abandon(raw) })
	defer stop()
	lost := func(err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	req.Version = Version
	req.Stdin = streams.Stdin != nil
	if err := conn.Send(KindRequest, req); err != nil {
		return Exit{}, lost(err)
	}
	f, err := conn.Read()
	if err != nil {
		return Exit{}, lost(err)
	}
	var reply Reply
	if f.Kind != KindReply {
		return Exit{}, fmt.Errorf("%w: frame %q instead of a reply", ErrLost, f.Kind)
	}
	if err := f.Decode(&reply); err != nil {
		return Exit{}, err
	}
	if reply.Reason != "" {
		return Exit{}, &Refusal{Reason: reply.Reason, Message: reply.Message}
	}
	done := make(chan struct{})
	defer close(done)
	credit := newCredit(Window)
	defer credit.end()
	if streams.Stdin != nil {
		go feed(conn, streams.Stdin, credit)
	}
	if streams.Resize != nil {
		go resize(conn, streams.Resize, done)
	}
	for {
		f, err := conn.Read()
		if err != nil {
			return Exit{}, lost(err)
		}
		switch f.Kind {
		case KindStdout:
			err = deliver(streams.Stdout, f.Data)
		case KindStderr:
			err = deliver(streams.Stderr, f.Data)
		case KindUsed:
			var u Used
			if err = f.Decode(&u); err == nil {
				credit.add(u.Bytes)
			}
		case KindExit:
			var e Exit
			err := f.Decode(&e)
			return e, err
		default:
			err = fmt.Errorf("frame %q is not known", f.Kind)
		}
		if err != nil {
			return Exit{}, err
		}
	}
}

// abandon ends an exchange at once: the pending Read must return.
func abandon(raw net.Conn) {
	_ = raw.SetDeadline(past) // so that nothing blocks any more
	_ = raw.Close()           // the runner sees the end
}

func deliver(w io.Writer, data []byte) error {
	if w == nil {
		return nil
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("the client is gone: %w", err)
	}
	return nil
}

// feed passes input on, as much as there is credit for.
func feed(conn *Conn, in io.Reader, c *credit) {
	buf := make([]byte, MaxPayload)
	for {
		n, err := in.Read(buf)
		for sent := 0; sent < n; {
			part := c.take(n - sent)
			if part == 0 || conn.Write(KindStdin, buf[sent:sent+part]) != nil {
				return // the exchange is over
			}
			sent += part
		}
		if err != nil {
			_ = conn.one(KindEOF, nil) // if it fails, the exchange is over
			return
		}
	}
}

func resize(conn *Conn, sizes <-chan Size, done <-chan struct{}) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok || conn.Send(KindResize, s) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// credit is how much input may still be sent.
type credit struct {
	mu    sync.Mutex
	more  *sync.Cond
	left  int
	ended bool
}

func newCredit(n int) *credit {
	c := &credit{left: n}
	c.more = sync.NewCond(&c.mu)
	return c
}

// take waits for credit and gives at most n of it, or 0 once all has ended.
func (c *credit) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.left == 0 && !c.ended {
		c.more.Wait()
	}
	if c.ended {
		return 0
	}
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *credit) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = min(c.left+max(n, 0), Window)
	c.more.Broadcast()
}

func (c *credit) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.more.Broadcast()
}
