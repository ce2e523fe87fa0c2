package crash_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// fault is what goes wrong at one effect.
type fault string

const (
	none        fault = "none"
	failBefore  fault = "fails, not done"
	lostRequest fault = "times out, not done"
	lostReply   fault = "times out, done"
	crashBefore fault = "crash before"
	crashAfter  fault = "crash after"
)

var faults = []fault{failBefore, lostRequest, lostReply, crashBefore, crashAfter}

var (
	errInjected = errors.New("injected")
	errCrashed  = errors.New("the process is gone")
)

// faultyGate lets one occurrence of one effect go wrong. After a crash nothing
// more happens through it until the world has started another process.
type faultyGate struct {
	fault  fault
	target string
	nth    int

	mu      sync.Mutex
	count   map[string]int
	crashed bool
	fired   bool
}

func newGate(f fault, target string, nth int) *faultyGate {
	return &faultyGate{fault: f, target: target, nth: nth, count: map[string]int{}}
}

// Do implements effect.Gate.
func (g *faultyGate) Do(ctx context.Context, name string, fn func(context.Context) error) error {
	g.mu.Lock()
	if g.crashed {
		g.mu.Unlock()
		return errCrashed
	}
	g.count[name]++
	hit := name == g.target && g.count[name] == g.nth
	g.fired = g.fired || hit
	if hit && (g.fault == crashBefore || g.fault == crashAfter) {
		// Held until the effect is done, so that no other one begins after it.
		defer g.mu.Unlock()
		if g.fault == crashAfter {
			_ = fn(ctx) // its outcome is lost with the process
		}
		g.crashed = true
		return errCrashed
	}
	g.mu.Unlock()
	if !hit {
		return fn(ctx)
	}
	kind := backends.KindUnknownOutcome
	switch g.fault {
	case failBefore:
		kind = backends.KindTransient
	case lostReply:
		_ = fn(ctx) // its outcome is lost with the reply
	}
	return &backends.Error{Op: name, Kind: kind, Err: fmt.Errorf("%w: %s", errInjected, g.fault)}
}

// revive reports whether the process died, and lets the next one begin.
func (g *faultyGate) revive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.crashed
	g.crashed = false
	if was {
		g.target = "" // one crash a life
	}
	return was
}

// met reports whether the fault happened.
func (g *faultyGate) met() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fired
}

// counts gives how often each effect happened.
func (g *faultyGate) counts() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.count)
}

// deadline is how long a life waits for one thing in real time.
const deadline = 90 * time.Second
