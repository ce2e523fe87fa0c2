package stream

import (
	"io"
	"sync"
	"time"
)

// past is a deadline that is over.
var past = time.Unix(1, 0)

// Input is the runner's queue of one exchange's input. It never blocks the one
// who fills it, and never holds more than Window bytes.
type Input struct {
	conn *Conn
	mu   sync.Mutex
	more *sync.Cond
	data []byte
	eof  bool
	gone bool
}

// NewInput gives an empty queue. What is read from it is reported on conn.
func NewInput(conn *Conn) *Input {
	in := &Input{conn: conn}
	in.more = sync.NewCond(&in.mu)
	return in
}

// Put adds data. It reports false when the sender exceeds its window.
func (in *Input) Put(data []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.data)+len(data) > Window {
		return false
	}
	in.data = append(in.data, data...)
	in.more.Broadcast()
	return true
}

// EOF says that no more will come.
func (in *Input) EOF() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.eof = true
	in.more.Broadcast()
}

// End throws away what is left and ends every Read.
func (in *Input) End() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.gone = true
	in.data = nil
	in.more.Broadcast()
}

// CopyTo writes the input to w until its end, and reports whether the end was
// that of the input rather than of the exchange.
func (in *Input) CopyTo(w io.Writer) (eof bool, err error) {
	buf := make([]byte, MaxPayload)
	for {
		in.mu.Lock()
		for len(in.data) == 0 && !in.eof && !in.gone {
			in.more.Wait()
		}
		if in.gone || len(in.data) == 0 {
			defer in.mu.Unlock()
			return !in.gone, nil
		}
		n := copy(buf, in.data)
		in.data = in.data[:copy(in.data, in.data[n:])]
		in.mu.Unlock()
		if _, err := w.Write(buf[:n]); err != nil {
			return false, err
		}
		if err := in.conn.Send(KindUsed, Used{Bytes: n}); err != nil {
			return false, err
		}
	}
}
