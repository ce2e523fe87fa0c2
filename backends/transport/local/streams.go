package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/bounded"
)

// pipes are the three streams of a command: our ends and the child's.
type pipes struct {
	in, out, errs *os.File // ours; in is nil where the child needs nothing more of us
	child         []*os.File
}

func (r *Runner) openPipes(cmd *exec.Cmd, c transport.Command) (*pipes, error) {
	p := &pipes{}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.out, p.child = outR, append(p.child, outW)
	errR, errW, err := os.Pipe()
	if err != nil {
		p.close()
		return nil, err
	}
	p.errs, p.child = errR, append(p.child, errW)
	cmd.Stdout, cmd.Stderr = outW, errW
	if err := r.openInput(p, cmd, c.Stdin); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// started lets go of the child's ends, so that end of file is seen.
func (p *pipes) started() {
	for _, f := range p.child {
		closeAll(f)
	}
	p.child = nil
}

func (p *pipes) close() {
	p.started()
	for _, f := range []*os.File{p.in, p.out, p.errs} {
		if f != nil {
			closeAll(f)
		}
	}
}

// streams are the running copies.
type streams struct {
	pipes  *pipes
	stdout *bounded.Head
	stderr *kept
	failed chan error // the first failure of standard output
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

func (p *pipes) copy(c transport.Command, limit int) *streams {
	s := &streams{
		pipes: p, failed: make(chan error, 1),
		stdout: bounded.NewHead(int64(limit)), stderr: &kept{limit: stderrTail},
	}
	var sink io.Writer = s.stdout
	if c.Stdout != nil {
		sink = c.Stdout
	}
	s.wg.Go(func() {
		if _, err := io.Copy(sink, untilDeadline{p.out}); err != nil {
			s.fail(fmt.Errorf("copy standard output: %w", err))
		}
	})
	s.wg.Go(func() { _, _ = io.Copy(s.stderr, untilDeadline{p.errs}) })
	if p.in != nil {
		// Not waited for: the reader may block for ever, and the program may end
		// without having read everything, which is its own right.
		go func() {
			_, _ = io.Copy(onlyWriter{p.in}, c.Stdin)
			closeAll(p.in)
		}()
	}
	return s
}

// untilDeadline reads a pipe; the deadline that drain sets is an ordinary end.
// It also hides the shortcuts of *os.File, as onlyWriter does: they would
// bypass our bounds or block on a foreign descriptor.
type untilDeadline struct{ pipe *os.File }

func (r untilDeadline) Read(p []byte) (int, error) {
	n, err := r.pipe.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = io.EOF
	}
	return n, err
}

type onlyWriter struct{ io.Writer }

func (s *streams) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.failed <- err
}

func (s *streams) error() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// drain waits for the rest of the output, which is all there once the group is
// gone, unless a process left the group: then it waits for drainTime.
func (s *streams) drain() {
	at := time.Now().Add(drainTime)
	_ = s.pipes.out.SetReadDeadline(at)
	_ = s.pipes.errs.SetReadDeadline(at)
	s.wg.Wait()
}

// kept is a bounded buffer: past its limit it drops the beginning.
type kept struct {
	limit int
	mu    sync.Mutex
	buf   []byte
}

func (k *kept) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.buf = append(k.buf, p...)
	// Twice the limit is let stand, so that the cost of moving is spread.
	if len(k.buf) > 2*k.limit {
		k.buf = append(k.buf[:0], k.buf[len(k.buf)-k.limit:]...)
	}
	return len(p), nil
}

func (k *kept) bytes() []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.buf) > k.limit {
		return k.buf[len(k.buf)-k.limit:]
	}
	return k.buf
}
