package bounded_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/bounded"
)

func TestHeadIsWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 64<<10 + 1<<20, 64<<10 + 1<<20 + 1, 5<<20 + 123} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(rng.Uint32())
		}
		h := bounded.NewHead(int64(size))
		for left := want; len(left) > 0; {
			n := min(len(left), 1+rng.IntN(100_000))
			if got, err := h.Write(left[:n]); got != n || err != nil {
				t.Fatalf("%d of %d: %d, %v", len(want)-len(left), size, got, err)
			}
			left = left[n:]
		}
		for range 2 { // reading takes nothing away
			if !bytes.Equal(h.Bytes(), want) {
				t.Errorf("%d bytes did not come back whole", size)
			}
		}
	}
}

func TestHeadIsBounded(t *testing.T) {
	for _, limit := range []int64{10, 64 << 10, 3 << 20} {
		h := bounded.NewHead(limit)
		chunk := bytes.Repeat([]byte("abc"), 5000)
		var err error
		for n := int64(0); err == nil && n < limit+int64(len(chunk)); n += int64(len(chunk)) {
			_, err = h.Write(chunk)
		}
		if !errors.Is(err, transport.ErrOutputLimit) {
			t.Errorf("limit %d: %v", limit, err)
		}
		if _, err := h.Write([]byte("x")); !errors.Is(err, transport.ErrOutputLimit) {
			t.Errorf("limit %d: after the limit: %v", limit, err)
		}
		if got := h.Bytes(); int64(len(got)) > limit || len(got) > 64<<10 || len(got) < 10 || !bytes.HasPrefix(got, []byte("abcabca")) {
			t.Errorf("limit %d: %d bytes are kept, %.10q", limit, len(got), got)
		}
	}
}
