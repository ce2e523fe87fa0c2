package slurmrest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

// session is what a call of the backend needs to speak for a user.
type session struct {
	b        *Backend
	op, user string
	key      backends.Key
	token    Token
	dialect  *dialect
}

// request is one HTTP request. An effect's outcome may stay unknown.
type request struct {
	method, path string
	body         any // nil is none
	effect       bool
	on           map[string]func(*json.Decoder) error
}

var (
	// errNoPath says that the server knows no such path, so that it does not
	// offer the version.
	errNoPath = errors.New("the server offers no such path")
	// errCredential is in every error that says that a token was not taken.
	errCredential = errors.New("the token was not accepted")
)

// open gets the user's token ready and agrees on a version. A user whose token
// has not been accepted yet asks something harmless first: v0.0.38 leaves the
// outcome of an effect open when the token is bad.
func (b *Backend) open(ctx context.Context, op, user string) (*session, error) {
	s := &session{b: b, op: op, user: user}
	token, err := b.config.Tokens.Token(ctx, user, b.config.Now())
	if err != nil {
		if ctx.Err() != nil {
			return nil, s.fail(backends.KindTransient, err)
		}
		return nil, s.fail(backends.KindDenied, err)
	}
	s.token = token
	if err := b.breaker.check(user, token.Origin); err != nil {
		return nil, s.fail(backends.KindDenied, err)
	}
	if err := s.agree(ctx); err != nil {
		return nil, err
	}
	b.mu.Lock()
	proven := b.proven[user] == token.Origin
	b.mu.Unlock()
	if !proven {
		if _, err := s.do(ctx, request{method: http.MethodGet, path: s.dialect.path("licenses")}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *session) fail(kind backends.Kind, err error) error {
	return &backends.Error{Op: s.op, Kind: kind, Key: s.key, Err: err}
}

// open says what an outcome that is not known means for the request.
func (r request) open() backends.Kind {
	if r.effect {
		return backends.KindUnknownOutcome
	}
	return backends.KindTransient
}

// do sends a request and reads the reply. Beside an error the reply is given as
// far as it was understood. Every error is a *backends.Error.
func (s *session) do(ctx context.Context, r request) (reply, error) {
	ctx, stop := context.WithTimeout(ctx, s.b.config.Timeout)
	defer stop()
	res, sent, err := s.send(ctx, r)
	if err != nil {
		kind := backends.KindTransient // it certainly was not read
		if sent {
			kind = r.open()
		}
		return reply{}, s.fail(kind, err)
	}
	defer res.Body.Close()

	limited := &io.LimitedReader{R: res.Body, N: s.b.config.MaxReply + 1}
	var head bytes.Buffer // of a reply that turns out to be no JSON
	out, decodeErr := decode(io.TeeReader(limited, &headOnly{&head}), r.on)
	if limited.N <= 0 {
		decodeErr = fmt.Errorf("the reply is larger than %d bytes", s.b.config.MaxReply)
	}
	if decodeErr != nil {
		return reply{}, s.unread(r, res.StatusCode, head.String(), decodeErr)
	}
	if len(out.Errors) == 0 && res.StatusCode/100 == 2 {
		s.accepted()
		return out, nil
	}
	return out, s.refused(ctx, r, res.StatusCode, out.Errors)
}

// headOnly keeps the first bytes of what is written to it.
type headOnly struct{ into *bytes.Buffer }

func (h *headOnly) Write(p []byte) (int, error) {
	if room := 512 - h.into.Len(); room > 0 {
		h.into.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// send makes the exchange up to the head of the reply. sent is false when the
// server certainly did not see the request.
func (s *session) send(ctx context.Context, r request) (res *http.Response, sent bool, err error) {
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, false, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent = true }})
	req, err := http.NewRequestWithContext(ctx, r.method, s.b.base+r.path, body)
	if err != nil {
		return nil, false, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("X-SLURM-USER-NAME", s.user)
	req.Header.Set("X-SLURM-USER-TOKEN", s.token.Text)
	res, err = s.b.client.Do(req)
	return res, sent, err
}

// unread classifies a reply that is not one of Slurm's, or not a whole one.
func (s *session) unread(r request, status int, head string, cause error) error {
	err := fmt.Errorf("%s %s: status %d: %w", r.method, r.path, status, cause)
	if said := printable(head); said != "" && !strings.HasPrefix(said, "{") {
		err = fmt.Errorf("%s %s: status %d: %s", r.method, r.path, status, said)
	}
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return s.notAccepted(err)
	case http.StatusNotFound:
		s.forget()
		return s.fail(backends.KindTransient, errors.Join(errNoPath, err))
	case http.StatusTooManyRequests:
		return s.fail(backends.KindThrottled, err)
	}
	switch status / 100 {
	case 3, 4: // the server's own word that it did nothing
		if r.effect {
			return s.fail(backends.KindInvalid, err)
		}
		return s.fail(backends.KindTransient, err)
	}
	return s.fail(r.open(), err)
}

// accepted notes that the server, and the controller behind it, took the token.
func (s *session) accepted() {
	s.b.breaker.accepted(s.user)
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.proven[s.user] = s.token.Origin
}

// notAccepted notes that the token was refused.
func (s *session) notAccepted(cause error) error {
	err := fmt.Errorf("%w: %w", errCredential, cause)
	s.b.breaker.refused(s.user, s.token.Origin, err)
	s.b.mu.Lock()
	delete(s.b.proven, s.user)
	s.b.mu.Unlock()
	return s.fail(backends.KindDenied, err)
}

// refused classifies a reply of Slurm's that tells of errors.
func (s *session) refused(ctx context.Context, r request, status int, all []apiError) error {
	var said []string
	for _, e := range all {
		said = append(said, e.String())
	}
	if len(said) == 0 {
		said = []string{"no error is told"}
	}
	err := &slurmError{numbers: numbers(all), text: fmt.Sprintf("%s %s: status %d: %s", r.method, r.path, status, strings.Join(said, "; "))}
	kind := kindOf(all)
	switch {
	case status == http.StatusUnauthorized, credential(err.numbers):
		return s.notAccepted(err)
	case !r.effect && err.has(1007):
		return s.notAccepted(err)
	case !r.effect && s.dialect != nil && s.dialect.mute && err.has(-1) && s.tokenRefused(ctx):
		return s.notAccepted(err)
	case kind == "" || kind == backends.KindUnknownOutcome:
		kind = r.open()
	case !r.effect && kind == backends.KindInvalid:
		kind = backends.KindTransient // a question has no field that a user could mend
	}
	if r.effect && kind == backends.KindUnknownOutcome {
		// It may have been the token: the next call asks something harmless first.
		s.b.mu.Lock()
		delete(s.b.proven, s.user)
		s.b.mu.Unlock()
	}
	return s.fail(kind, err)
}

// slurmError is what Slurm said.
type slurmError struct {
	numbers []int
	text    string
}

func (e *slurmError) Error() string { return e.text }

func (e *slurmError) has(n int) bool {
	for _, have := range e.numbers {
		if have == n {
			return true
		}
	}
	return false
}

func numbers(all []apiError) (out []int) {
	for _, e := range all {
		if n := e.number(); n != 0 {
			out = append(out, n)
		}
	}
	return out
}

func credential(all []int) bool {
	for _, n := range all {
		if slurmjob.Credential(n) {
			return true
		}
	}
	return false
}

// kindOf gives the kind of what Slurm said: by its numbers, else by its words;
// what leaves the outcome open comes first.
func kindOf(all []apiError) backends.Kind {
	var kind backends.Kind
	var text strings.Builder
	for _, e := range all {
		k := slurmjob.KindOfNumber(e.number())
		if k == backends.KindUnknownOutcome {
			return k
		}
		if kind == "" {
			kind = k
		}
		fmt.Fprintf(&text, "%s: %s\n", e.Text.v, e.Description.v)
	}
	if kind == "" {
		kind = slurmjob.Classify(text.String())
	}
	return kind
}

// tokenRefused tells a refused token from a controller that does not answer,
// which v0.0.38 does not do in answers to queries: it cancels job 0, which
// never is, and is told either that or that the connection was closed on it.
func (s *session) tokenRefused(ctx context.Context) bool {
	res, _, err := s.send(ctx, request{method: http.MethodDelete, path: s.dialect.job("0")})
	if err != nil {
		return false
	}
	defer res.Body.Close()
	out, err := decode(io.LimitReader(res.Body, 1<<20), nil)
	if err != nil {
		return false
	}
	e := &slurmError{numbers: numbers(out.Errors)}
	return e.has(5005) || e.has(1007) || credential(e.numbers)
}
