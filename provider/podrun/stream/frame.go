// Package stream is how the provider speaks with the runner of a running pod:
// to execute a program in one of its containers, to attach to one, and to reach
// a port.
//
// A connection is any pair of byte streams, such as the standard streams of a
// program that the batch system started on the pod's host, so that no terminal
// is needed on the way (see Carry). It carries many exchanges at once. Each is a
// Request, a Reply, and frames until the Exit. Closing an exchange, or losing
// the connection, ends what it had started.
package stream

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Version is the protocol's version. A runner refuses a Request of another one.
const Version = 1

// Kind tells frames apart.
type Kind byte

// The kinds. Input frames go to the runner, output frames come from it.
const (
	KindRequest Kind = 'R' // Request, the first frame
	KindReply   Kind = 'r' // Reply, the first answer
	KindStdin   Kind = 'i' // input; at most Window bytes that the runner has not said to have used
	KindEOF     Kind = 'e' // end of the input
	KindResize  Kind = 'z' // Size
	KindStdout  Kind = 'o'
	KindStderr  Kind = 'x'
	KindUsed    Kind = 'u' // Used: input that has reached the program
	KindExit    Kind = 'q' // Exit, the last frame
)

const (
	// MaxPayload bounds a frame of data, in bytes, and maxFrame any.
	MaxPayload = 32 << 10
	maxFrame   = 1 << 20
	// Window is how much input may be under way to a program that does not read.
	// It lets the runner take every frame at once, so that a resize or the end of
	// the exchange never waits behind input.
	Window = 256 << 10
)

// Verbs of a Request.
const (
	VerbExec    = "exec"
	VerbAttach  = "attach"
	VerbForward = "forward"
)

// Request says what an exchange is.
type Request struct {
	Version   int      `json:"version"`
	Verb      string   `json:"verb"`
	Container string   `json:"container,omitempty"`
	Command   [][]byte `json:"command,omitempty"` // bytes, since arguments need not be UTF-8
	TTY       bool     `json:"tty,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
	Stdout    bool     `json:"stdout,omitempty"`
	Stderr    bool     `json:"stderr,omitempty"`
	Port      int32    `json:"port,omitempty"` // of forward
}

// Reasons why a runner refuses a request.
const (
	ReasonNotFound   = "NotFound"   // no such container
	ReasonNotRunning = "NotRunning" // it does not run now
	ReasonInvalid    = "Invalid"
	ReasonBusy       = "Busy" // too many exchanges
	ReasonFailed     = "Failed"
)

// Reply answers a Request. An empty Reason means that it is being served.
type Reply struct {
	Version int    `json:"version"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// Refusal is a Reply with a Reason, as an error.
type Refusal struct{ Reason, Message string }

func (r *Refusal) Error() string { return r.Message }

// Size is that of a terminal in characters.
type Size struct {
	Width  uint16 `json:"width"`
	Height uint16 `json:"height"`
}

// Used counts bytes of input.
type Used struct {
	Bytes int `json:"bytes"`
}

// Exit is how an exchange ended: a program by its code (128+n for signal n), an
// attach or a forward with 0. A Message is trouble on the way.
type Exit struct {
	Code    int    `json:"code"`
	Message string `json:"message,omitempty"`
}

// Frame is one unit of an exchange.
type Frame struct {
	Kind Kind
	Data []byte // valid until the next Read
}

// Decode reads the frame's JSON.
func (f Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Data, v); err != nil {
		return fmt.Errorf("decode frame %q: %w", f.Kind, err)
	}
	return nil
}

// Conn sends and receives frames. Writes may be concurrent, reads not.
type Conn struct {
	rw  io.ReadWriteCloser
	in  []byte
	mu  sync.Mutex
	out []byte
}

// NewConn gives a Conn on one exchange's own stream of bytes.
func NewConn(rw io.ReadWriteCloser) *Conn {
	return &Conn{rw: rw}
}

// Close ends the exchange.
func (c *Conn) Close() error { return c.rw.Close() }

// Read gives the next frame. io.EOF means that the other side has gone.
func (c *Conn) Read() (Frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return Frame{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return Frame{}, fmt.Errorf("frame of %d bytes, more than %d", n, maxFrame)
	}
	if int(n) > len(c.in) {
		c.in = make([]byte, max(int(n), MaxPayload))
	}
	if _, err := io.ReadFull(c.rw, c.in[:n]); err != nil {
		return Frame{}, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return Frame{Kind: Kind(head[0]), Data: c.in[:n]}, nil
}

// Write sends data as one frame or more.
func (c *Conn) Write(k Kind, data []byte) error {
	for {
		n := min(len(data), MaxPayload)
		if err := c.one(k, data[:n]); err != nil {
			return err
		}
		if data = data[n:]; len(data) == 0 {
			return nil
		}
	}
}

func (c *Conn) one(k Kind, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out[:0], byte(k))
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(data))) //nolint:gosec // at most MaxPayload
	c.out = append(c.out, data...)
	_, err := c.rw.Write(c.out)
	return err
}

// Send sends v as a frame of JSON.
func (c *Conn) Send(k Kind, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %q: %w", k, err)
	}
	if len(data) > maxFrame {
		return fmt.Errorf("frame %q of %d bytes, more than %d", k, len(data), maxFrame)
	}
	return c.one(k, data)
}
