package controllertest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Fault is what becomes of one write to the API server.
type Fault int

// The faults of a write.
const (
	// None lets it through.
	None Fault = iota
	// Lost keeps it from the API server: the caller sees a broken connection.
	Lost
	// Unheard carries it out and breaks the connection before the answer.
	Unheard
	// Refused answers that the API server has a trouble of its own (500).
	Refused
	// Conflict answers that somebody else wrote first (409), to what changes an
	// object; to what makes or deletes one it is Refused.
	Conflict
	// Throttled answers that there are too many requests (429).
	Throttled
)

// Gate stands between a program and the API server, as a transport. It counts
// writes, has faults happen to them, and can cut the program off, as kill -9 does
// from the API server's point of view. Events and leases are not looked at.
type Gate struct {
	// Decide chooses the fault of a write, by its number from 1; nil is none.
	Decide func(number int, method, path string) Fault

	mu      sync.Mutex
	writes  int
	left    int // writes until it is cut, -1 for never
	last    Fault
	cut     chan struct{}
	watches map[io.Closer]bool
}

// NewGate gives one that lets everything through.
func NewGate() *Gate {
	return &Gate{left: -1, cut: make(chan struct{}), watches: map[io.Closer]bool{}}
}

// CutAt has the gate cut the program off at the n-th write from now, which is Lost
// or Unheard, and everything after it.
func (g *Gate) CutAt(n int, last Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left, g.last = n, last
}

// Cut is closed once the program is cut off.
func (g *Gate) Cut() <-chan struct{} { return g.cut }

// Writes is how many writes there were.
func (g *Gate) Writes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes
}

// CutWatches breaks all watches that are open.
func (g *Gate) CutWatches() {
	g.mu.Lock()
	open := g.watches
	g.watches = map[io.Closer]bool{}
	g.mu.Unlock()
	for c := range open {
		_ = c.Close()
	}
}

var errCut = errors.New("gate: the connection is broken")

// Wrap is for rest.Config.Wrap.
func (g *Gate) Wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) { return g.pass(next, req) })
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (g *Gate) pass(next http.RoundTripper, req *http.Request) (*http.Response, error) {
	fault, dead := g.judge(req)
	if dead {
		return nil, errCut
	}
	switch fault {
	case Lost:
		return nil, errCut
	case Refused:
		return answer(req, http.StatusInternalServerError, "InternalError"), nil
	case Throttled:
		return answer(req, http.StatusTooManyRequests, "TooManyRequests"), nil
	case Conflict:
		if req.Method != http.MethodPatch && req.Method != http.MethodPut {
			return answer(req, http.StatusInternalServerError, "InternalError"), nil
		}
		return answer(req, http.StatusConflict, "Conflict"), nil
	}
	resp, err := next.RoundTrip(req)
	if fault == Unheard {
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
		return nil, errCut
	}
	if err == nil && req.URL.Query().Get("watch") != "" {
		g.mu.Lock()
		g.watches[resp.Body] = true
		g.mu.Unlock()
	}
	return resp, err
}

// judge counts a write and says what becomes of it; dead says that the program is
// cut off.
func (g *Gate) judge(req *http.Request) (fault Fault, dead bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left == 0 {
		return None, true
	}
	path := req.URL.Path
	if req.Method == http.MethodGet || strings.Contains(path, "/events") || strings.Contains(path, "/leases") {
		return None, false
	}
	g.writes++
	if g.left > 0 {
		g.left--
		if g.left == 0 {
			close(g.cut)
			return g.last, false
		}
	}
	if g.Decide == nil {
		return None, false
	}
	return g.Decide(g.writes, req.Method, path), false
}

func answer(req *http.Request, code int, reason string) *http.Response {
	body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"the gate of a test","reason":%q,"code":%d}`, reason, code)
	header := http.Header{"Content-Type": {"application/json"}}
	if code == http.StatusTooManyRequests {
		header.Set("Retry-After", "0")
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader([]byte(body))), ContentLength: int64(len(body)), Request: req}
}
