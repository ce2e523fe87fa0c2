package main

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// fence lets no write out of a program that does not lead. A process that was
// stopped for longer than the lease lasts, and goes on, has lost it and does not
// know yet: what it still has to send, bindings that another has decided about
// since, must not be sent. It is asked last, when nothing is waited for any more.
type fence struct {
	leads atomic.Pointer[func() bool]
}

var errNotLeading = errors.New("the lease is lost: another instance decides now")

// set has leads asked from now on; without it everything passes.
func (f *fence) set(leads func() bool) { f.leads.Store(&leads) }

func (f *fence) wrap(next http.RoundTripper) http.RoundTripper {
	return fenced{f, next}
}

// fenced is a transport behind a fence.
type fenced struct {
	fence *fence
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper. It fails with errNotLeading where it would write.
func (f fenced) RoundTrip(r *http.Request) (*http.Response, error) {
	if leads := f.fence.leads.Load(); leads != nil && r.Method != http.MethodGet && !(*leads)() {
		return nil, errNotLeading
	}
	return f.next.RoundTrip(r)
}
