package stream

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// magic is what the runner's side sends first. What comes before it on the way,
// a login banner or a warning of the batch system, is passed over.
const magic = "\x00isthmus-stream/1\n"

// maxNoise bounds what may come before magic, in bytes.
const maxNoise = 256 << 10

// maxChunk bounds one chunk of the carrier, in bytes.
const maxChunk = 64 << 10

// Hello sends what announces the runner's side on w.
func Hello(w io.Writer) error {
	_, err := io.WriteString(w, magic)
	return err
}

// await reads up to the announcement.
func await(r io.ByteReader) (noise []byte, err error) {
	var seen []byte
	for len(seen) < maxNoise {
		b, err := r.ReadByte()
		if err != nil {
			return seen, err
		}
		seen = append(seen, b)
		if b == '\n' && bytes.HasSuffix(seen, []byte(magic)) {
			return seen[:len(seen)-len(magic)], nil
		}
	}
	return seen, fmt.Errorf("%d bytes that are not of the protocol", maxNoise)
}

// carrier is the byte stream below the exchanges. Every write goes as one chunk
// that ends with a newline: slurmstepd hands a task's output on line by line
// (srun(1), --unbuffered) and would sit on the last bytes else.
type carrier struct {
	r     *bufio.Reader
	w     io.Writer
	close func() error

	mu   sync.Mutex // of w
	out  []byte
	left int  // of the chunk that is being read
	tail bool // its newline is to come
}

// Carry makes a carrier of a pair of streams; close ends both.
func Carry(r io.Reader, w io.Writer, closeBoth func() error) io.ReadWriteCloser {
	return &carrier{r: bufio.NewReaderSize(r, 64<<10), w: w, close: closeBoth}
}

func (c *carrier) Close() error { return c.close() }

func (c *carrier) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for done := 0; done < len(p); {
		n := min(len(p)-done, maxChunk)
		c.out = binary.BigEndian.AppendUint32(c.out[:0], uint32(n)) //nolint:gosec // at most maxChunk
		c.out = append(c.out, p[done:done+n]...)
		c.out = append(c.out, '\n')
		if _, err := c.w.Write(c.out); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

func (c *carrier) Read(p []byte) (int, error) {
	for c.left == 0 {
		if c.tail {
			if b, err := c.r.ReadByte(); err != nil {
				return 0, err
			} else if b != '\n' {
				return 0, errors.New("chunk without its end: something else writes to this stream")
			}
			c.tail = false
		}
		var head [4]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > maxChunk {
			return 0, fmt.Errorf("chunk of %d bytes: something else writes to this stream", n)
		}
		c.left, c.tail = int(n), true
	}
	n, err := c.r.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// settings of both sides. A side that has gone without a word, a host that lost
// power or a network that was cut, is noticed after a minute at most.
func settings() *yamux.Config {
	c := yamux.DefaultConfig()
	c.KeepAliveInterval = 20 * time.Second
	c.ConnectionWriteTimeout = 30 * time.Second
	c.StreamOpenTimeout = 30 * time.Second
	c.LogOutput = io.Discard // every error reaches the caller as well
	return c
}

// Serve gives the runner's side of a connection; its Accept yields exchanges.
func Serve(rw io.ReadWriteCloser) (*yamux.Session, error) {
	return yamux.Server(rw, settings())
}
