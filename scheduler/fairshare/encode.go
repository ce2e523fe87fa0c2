package fairshare

import (
	"encoding/json"
	"fmt"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// version is the format that is written and the only one read.
const version = 1

// maxName bounds the length of a name that is read.
const maxName = 512

type document struct {
	Version int `json:"version"`
	snapshot.Usage
}

// Encode writes the book; equal books give equal bytes.
func (b *Book) Encode() ([]byte, error) {
	text, err := json.Marshal(document{Version: version, Usage: *b.Usage()})
	if err != nil {
		return nil, fmt.Errorf("encode usage: %w", err)
	}
	return text, nil
}

// Decode reads what Encode wrote, within the bounds of a book.
func Decode(text []byte) (*Book, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	if d.Version != version {
		return nil, fmt.Errorf("read usage: version %d, want %d", d.Version, version)
	}
	if d.At < 0 || d.HalfLife <= 0 {
		return nil, fmt.Errorf("read usage: at %d with a half-life of %d seconds is no time", d.At, d.HalfLife)
	}
	b := New()
	b.at, b.halfLife = d.At, d.HalfLife
	for _, u := range d.Of {
		for _, q := range u.Held {
			if q.Amount <= 0 || len(u.Queue) > maxName || len(u.Namespace) > maxName || len(q.Name) > maxName {
				continue
			}
			k := key{u.Queue, u.Namespace}
			if b.held[k] == nil {
				b.held[k] = map[string]int64{}
			}
			b.held[k][q.Name] = max(b.held[k][q.Name], q.Amount)
		}
	}
	b.bound()
	return b, nil
}
