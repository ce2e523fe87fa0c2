package ssh

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

const (
	firstCoolDown = time.Minute
	maxCoolDown   = time.Hour
)

// breaker keeps refused credentials from being tried again and again: sites lock
// accounts for that. Changed credentials are tried at once.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time
	digest   [sha256.Size]byte
	err      error
}

// allow gives an error as long as these credentials must not be tried.
func (b *breaker) allow(digest [sha256.Size]byte, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil || digest != b.digest || !now.Before(b.until) {
		return nil
	}
	return fmt.Errorf("%w: not trying the same credentials again before %s, lest the account be locked (refused %d times): %w",
		transport.ErrDenied, b.until.UTC().Format(time.RFC3339), b.failures, b.err)
}

func (b *breaker) refused(digest [sha256.Size]byte, err error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if digest != b.digest {
		b.failures = 0
	}
	b.digest, b.err = digest, err
	b.until = now.Add(min(firstCoolDown<<min(b.failures, 10), maxCoolDown))
	b.failures++
}

func (b *breaker) worked() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures, b.err = 0, nil
}
