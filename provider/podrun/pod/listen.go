package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// maxGreetings bounds who may be about to prove that they hold the secret:
// anybody on the network can begin. One too many takes the place of another, so
// that those who only wait keep nobody out.
const maxGreetings = 64

// acceptAgain is the pause after a connection could not be taken.
const acceptAgain = time.Second

// overNetwork takes requests on the address that the pod is known by, from those
// who hold a secret that is made here, and leaves both in the pod's directory.
// It may be called once, before close. When it cannot be, the file says why.
func (s *server) overNetwork(ip string) {
	here := manifest.Listening{Version: manifest.Version, Restart: s.r.opts.Restart}
	l, secret, err := listenOn(ip)
	if err != nil {
		s.r.warn(err)
		here.Problem = err.Error()
	} else {
		here.Address, here.Secret = l.Addr().String(), secret
	}
	name := path.Join(s.r.dir, manifest.ListeningFile)
	if err := atomicfile.WriteJSON(s.r.gang, name, here); err != nil {
		s.r.warn(err)
	}
	s.left = name
	if l != nil {
		s.network = l
		s.wg.Go(func() { s.greet(l) })
	}
}

func listenOn(ip string) (net.Listener, []byte, error) {
	secret, err := stream.NewSecret()
	if err != nil {
		return nil, nil, err
	}
	config, err := stream.RunnerTLS(secret)
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return nil, nil, fmt.Errorf("listen on this host's address: %w", err)
	}
	return tls.NewListener(l, config), secret, nil
}

// greet accepts connections until the listener is closed.
func (s *server) greet(l net.Listener) {
	greetings := &greetings{open: map[net.Conn]struct{}{}}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
			if err == nil {
				_ = c.Close() // too late
			}
			return
		}
		if err != nil {
			s.r.warn(fmt.Errorf("accept: %w", err)) // out of descriptors, say, which passes
			select {
			case <-time.After(acceptAgain):
			case <-s.ctx.Done():
			}
			continue
		}
		greetings.begin(c)
		s.wg.Go(func() {
			known := s.proven(c)
			greetings.end(c)
			if !known {
				_ = c.Close()
				return
			}
			select {
			case s.lines <- struct{}{}:
			default:
				_ = c.Close() // more than any provider needs
				return
			}
			defer func() { <-s.lines }()
			s.connection(c)
		})
	}
}

// greetings are the connections whose other end is not known yet.
type greetings struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// begin adds one, at the cost of another when there are too many.
func (g *greetings) begin(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for other := range g.open { // in no order, which nobody can make use of
		if len(g.open) < maxGreetings {
			break
		}
		delete(g.open, other)
		if t, ok := other.(*tls.Conn); ok {
			_ = t.NetConn().Close() // without a word, which could block
		}
	}
	g.open[c] = struct{}{}
}

func (g *greetings) end(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

// proven reports whether the other end holds the secret.
func (s *server) proven(c net.Conn) bool {
	t, ok := c.(*tls.Conn)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(s.ctx, stream.GreetLimit)
	defer cancel()
	return t.HandshakeContext(ctx) == nil
}
