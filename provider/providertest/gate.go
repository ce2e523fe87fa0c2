package providertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Fault is what goes wrong at one effect.
type Fault string

// The faults. After a crash the process is gone, whatever the effect has come to.
const (
	NoFault     Fault = "none"
	FailBefore  Fault = "fails, not done"
	LostRequest Fault = "times out, not done"
	LostReply   Fault = "times out, done"
	CrashBefore Fault = "crash before"
	CrashAfter  Fault = "crash after"
)

// Faults are all of them.
func Faults() []Fault { return []Fault{FailBefore, LostRequest, LostReply, CrashBefore, CrashAfter} }

var (
	errInjected = errors.New("injected")
	errCrashed  = errors.New("the process is gone")
)

// Gate lets one occurrence of one effect go wrong, and counts all. After a crash nothing
// more happens through it until it is revived: the process is dead.
type Gate struct {
	// Meanwhile is called before an effect, when it is not nil.
	Meanwhile func(effect string)

	mu      sync.Mutex
	fault   Fault
	effect  string
	nth     int
	count   map[string]int
	crashed bool
	met     bool
}

// Sound is a gate at which nothing goes wrong.
func Sound() *Gate { return Faulty(NoFault, "", 0) }

// Faulty is a gate with a fault at the nth occurrence of an effect.
func Faulty(f Fault, effect string, nth int) *Gate {
	return &Gate{fault: f, effect: effect, nth: nth, count: map[string]int{}}
}

// Do implements effect.Gate.
func (g *Gate) Do(ctx context.Context, effect string, fn func(context.Context) error) error {
	if g.Meanwhile != nil {
		g.Meanwhile(effect)
	}
	g.mu.Lock()
	if g.crashed {
		g.mu.Unlock()
		return errCrashed
	}
	g.count[effect]++
	hit := effect == g.effect && g.count[effect] == g.nth
	g.met = g.met || hit
	fault := g.fault
	if hit && (fault == CrashBefore || fault == CrashAfter) {
		// Held until the effect is done, so that no other one begins after it.
		defer g.mu.Unlock()
		if fault == CrashAfter {
			_ = fn(ctx) // its outcome is lost with the process
		}
		g.crashed = true
		return errCrashed
	}
	g.mu.Unlock()
	if !hit || fault == NoFault {
		return fn(ctx)
	}
	kind := backends.KindUnknownOutcome
	switch fault {
	case FailBefore:
		kind = backends.KindTransient
	case LostReply:
		_ = fn(ctx) // its outcome is lost with the reply
	}
	return &backends.Error{Op: effect, Kind: kind, Err: fmt.Errorf("%w: %s", errInjected, fault)}
}

// Next lets the next occurrence of an effect go wrong.
func (g *Gate) Next(f Fault, effect string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault, g.effect, g.nth = f, effect, g.count[effect]+1
}

// Crash ends the process between two effects.
func (g *Gate) Crash() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.crashed = true
}

// Revive reports whether the process died, and lets the next one begin, which does not.
func (g *Gate) Revive() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.crashed
	if g.crashed = false; was {
		g.effect = ""
	}
	return was
}

// Met reports whether the fault has happened.
func (g *Gate) Met() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.met
}

// Unmet says of a fault that has not happened which it is, and whether it had to: each
// effect has a first occurrence, and maybe no others. It is "" for one that has.
func (g *Gate) Unmet() (which string, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fault == NoFault || g.met {
		return "", false
	}
	return fmt.Sprintf("%s at %s number %d", g.fault, g.effect, g.nth), g.nth == 1
}

// Count is how often an effect happened.
func (g *Gate) Count(effect string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count[effect]
}

// Counts is how often each effect happened.
func (g *Gate) Counts() map[string]int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.count)
}
