package kubeletapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// watch gives a context that ends when the client's connection does. Once a
// connection has been taken over, the request's own context knows nothing of it
// any more (net/http, Hijacker). The other way round, the connection is closed
// some time after the context has ended: the last word, that the exchange was
// broken off, should get out, since clients take silence for success.
func watch(r *http.Request, w http.ResponseWriter, lastWord time.Duration) (context.Context, http.ResponseWriter, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	return ctx, &watchedWriter{ResponseWriter: w, ctx: ctx, gone: cancel, lastWord: lastWord}, cancel
}

type watchedWriter struct {
	http.ResponseWriter
	ctx      context.Context
	gone     func()
	lastWord time.Duration
}

var _ http.Hijacker = (*watchedWriter)(nil)

// Hijack is http.Hijacker.
func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, fmt.Errorf("streams need HTTP/1.1")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := &watchedConn{Conn: conn, in: conn, gone: w.gone}
	if n := rw.Reader.Buffered(); n > 0 {
		early := make([]byte, n)
		if _, err := io.ReadFull(rw.Reader, early); err != nil {
			_ = conn.Close() // it is of no use
			return nil, nil, fmt.Errorf("take the connection over: %w", err)
		}
		c.in = io.MultiReader(bytes.NewReader(early), conn)
	}
	context.AfterFunc(w.ctx, func() { time.AfterFunc(w.lastWord, func() { _ = c.Close() }) })
	return c, bufio.NewReadWriter(bufio.NewReader(c), bufio.NewWriter(c)), nil
}

// watchedConn tells when it cannot be read any more.
type watchedConn struct {
	net.Conn
	in   io.Reader
	gone func()
	once sync.Once
	err  error
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if err != nil {
		c.gone()
	}
	return n, err
}

func (c *watchedConn) Close() error {
	c.once.Do(func() { c.err = c.Conn.Close() })
	c.gone()
	return c.err
}
