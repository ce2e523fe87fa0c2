// Package bounded collects the output of programs that may never stop: what a
// reply without an end costs is its limit and no more.
package bounded

import (
	"sync"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

const (
	// most is what is held in one slice that grows: nearly every output.
	most = 64 << 10
	// piece is what the rest is held in. A slice that grew further would leave
	// copies of itself behind, several times the limit in all.
	piece = 1 << 20
)

// pieces are used again: one flood after another costs no more than one.
var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// Head keeps what is written up to a limit. It is safe for concurrent use.
type Head struct {
	mu    sync.Mutex
	limit int64
	first []byte
	rest  []*[piece]byte
	used  int // bytes of the last piece
	size  int64
}

// NewHead takes at most limit bytes.
func NewHead(limit int64) *Head { return &Head{limit: limit} }

// Write fails with transport.ErrOutputLimit once the limit would be passed, and
// with all that follows; what was kept is let go then, but for the beginning.
func (h *Head) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.size += int64(len(p)); h.size > h.limit {
		if room := min(h.limit, most) - int64(len(h.first)); room > 0 && len(h.rest) == 0 {
			h.first = append(h.first, p[:min(room, int64(len(p)))]...)
		}
		h.release()
		return 0, transport.ErrOutputLimit
	}
	left := p
	if room := most - len(h.first); room > 0 && len(h.rest) == 0 {
		n := min(room, len(left))
		h.first, left = append(h.first, left[:n]...), left[n:]
	}
	for len(left) > 0 {
		if len(h.rest) == 0 || h.used == piece {
			fresh, ok := pieces.Get().(*[piece]byte)
			if !ok {
				fresh = new([piece]byte)
			}
			h.rest, h.used = append(h.rest, fresh), 0
		}
		n := copy(h.rest[len(h.rest)-1][h.used:], left)
		h.used, left = h.used+n, left[n:]
	}
	return len(p), nil
}

func (h *Head) release() {
	for _, p := range h.rest {
		pieces.Put(p)
	}
	h.rest, h.used = nil, 0
}

// Bytes gives what was kept, whole. Nothing may be written afterwards.
func (h *Head) Bytes() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.rest) == 0 {
		return h.first
	}
	out := make([]byte, 0, len(h.first)+(len(h.rest)-1)*piece+h.used)
	out = append(out, h.first...)
	for i, p := range h.rest {
		if i == len(h.rest)-1 {
			out = append(out, p[:h.used]...)
		} else {
			out = append(out, p[:]...)
		}
	}
	h.release()
	h.first = out
	return out
}
