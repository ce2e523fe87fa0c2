package slurmrest

import (
	"fmt"
	"sync"
	"time"
)

const (
	breakerFirst = 30 * time.Second
	breakerMost  = 10 * time.Minute
)

// breaker remembers whose credentials were refused, so that a site's log and
// lock-outs are spared: such a user's calls fail here until a while has passed
// or the credential is another.
type breaker struct {
	now func() time.Time
	mu  sync.Mutex
	off map[string]refusal
}

type refusal struct {
	origin string
	until  time.Time
	pause  time.Duration
	why    error
}

// check gives the reason why nothing should be sent for the user now, or nil.
func (b *breaker) check(user, origin string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.off[user]
	if !ok || r.origin != origin {
		return nil
	}
	left := r.until.Sub(b.now())
	if left <= 0 || left > r.pause { // over, or the clock was set back
		return nil
	}
	return fmt.Errorf("the token of user %s was refused, next try in %s: %w", user, left.Round(time.Second), r.why)
}

// refused notes that the server did not take the user's credential.
func (b *breaker) refused(user, origin string, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	pause := breakerFirst
	if r, ok := b.off[user]; ok && r.origin == origin {
		pause = min(2*r.pause, breakerMost)
	}
	if b.off == nil {
		b.off = map[string]refusal{}
	}
	b.off[user] = refusal{origin: origin, until: b.now().Add(pause), pause: pause, why: why}
}

// accepted notes that the server took the user's credential.
func (b *breaker) accepted(user string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.off, user)
}
