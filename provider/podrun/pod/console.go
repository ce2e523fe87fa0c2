package pod

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/pty"
)

// eot is what a terminal takes for the end of its input (VEOF in termios(3)).
const eot = 4

// console is the standard streams of one running program: pipes, or a terminal
// for all three. Those who attach see the output from then on.
type console struct {
	child  []*os.File // the program's ends, until it has started
	out    *os.File   // what comes from it; with a terminal, its master
	errs   *os.File   // nil with a terminal
	master *os.File

	mu    sync.Mutex
	in    *os.File // what goes to it, nil when it has no input or that has ended
	seats map[*seat]bool
	ended bool
}

// newConsole opens the streams that a program wants. Without input it reads the
// null device.
func newConsole(stdin, tty bool) (*console, error) {
	c := &console{seats: map[*seat]bool{}}
	if tty {
		master, slave, err := pty.Open()
		if err != nil {
			return nil, err
		}
		c.master, c.out = master, master
		c.child = []*os.File{slave, slave, slave}
		if stdin {
			c.in = master
		}
		return c, nil
	}
	c.child = []*os.File{nil, nil, nil}
	pair := func(ours **os.File, at int, input bool) error {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		if *ours, c.child[at] = r, w; input {
			*ours, c.child[at] = w, r
		}
		return nil
	}
	err := errors.Join(pair(&c.out, 1, false), pair(&c.errs, 2, false))
	if stdin {
		err = errors.Join(err, pair(&c.in, 0, true))
	}
	if err != nil {
		c.started()
		c.close()
		return nil, err
	}
	return c, nil
}

// started lets go of the program's ends.
func (c *console) started() {
	for i, f := range c.child {
		if f != nil && (i == 0 || f != c.child[i-1]) {
			_ = f.Close() // the program has its own
		}
	}
	c.child = nil
}

// drain lets what is still to be read come for a little while.
func (c *console) drain(d time.Duration) {
	at := time.Now().Add(d)
	for _, f := range []*os.File{c.out, c.errs} {
		if f != nil {
			_ = f.SetReadDeadline(at)
		}
	}
}

// close ends all streams and sends those who are attached away.
func (c *console) close() {
	c.closeInput()
	for _, f := range []*os.File{c.out, c.errs} {
		if f != nil {
			_ = f.Close() // all was read
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for s := range c.seats {
		s.end(nil)
	}
}

// closeInput ends the program's input. A terminal's goes on: there the end is
// a character.
func (c *console) closeInput() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		return
	}
	if c.in == c.master {
		_ = c.in.SetWriteDeadline(time.Now().Add(time.Second)) // a program that does not read takes no more
		_, _ = c.in.Write([]byte{eot})                         // a terminal that has gone has ended already
	} else {
		_ = c.in.Close()
	}
	c.in = nil
}

// input is where to write to the program, nil when nowhere.
func (c *console) input() io.Writer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in == nil {
		return nil
	}
	return c.in
}

// tee gives r's contents and passes a copy to those who are attached.
func (c *console) tee(r io.Reader, errs bool) io.Reader { return &tee{c, r, errs} }

type tee struct {
	c    *console
	r    io.Reader
	errs bool
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.c.mu.Lock()
		for s := range t.c.seats {
			s.put(t.errs, p[:n])
		}
		t.c.mu.Unlock()
	}
	return n, err
}

// maxBehind is how far one who is attached may be behind, in bytes. The program
// never waits for a reader far away.
const maxBehind = 4 << 20

var errBehind = errors.New("the client reads more slowly than the container writes; see the log for the rest")

// seat is one who is attached.
type seat struct {
	mu    sync.Mutex
	more  *sync.Cond
	queue []piece
	size  int
	ended bool
	err   error
}

type piece struct {
	errs bool
	data []byte
}

// attach gives a seat, or nil when the program has ended.
func (c *console) attach() *seat {
	s := &seat{}
	s.more = sync.NewCond(&s.mu)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	c.seats[s] = true
	return s
}

func (c *console) leave(s *seat) {
	c.mu.Lock()
	delete(c.seats, s)
	c.mu.Unlock()
	s.end(nil)
}

func (s *seat) put(errs bool, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case s.size+len(data) > maxBehind:
		s.ended, s.err = true, errBehind
	default:
		s.queue = append(s.queue, piece{errs, append([]byte(nil), data...)})
		s.size += len(data)
	}
	s.more.Broadcast()
}

func (s *seat) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.ended, s.err = true, err
	}
	s.more.Broadcast()
}

// next blocks for the next piece. ok is false at the end.
func (s *seat) next() (p piece, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.ended {
		s.more.Wait()
	}
	if len(s.queue) == 0 || s.err != nil {
		return piece{}, false, s.err
	}
	p, s.queue = s.queue[0], s.queue[1:]
	s.size -= len(p.data)
	return p, true, nil
}
