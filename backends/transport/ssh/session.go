package ssh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/bounded"
)

const (
	// drainTime is how long the rest of the streams is awaited after the command
	// has ended: only a process that left the group can hold one open then.
	drainTime = 2 * time.Second
	// killTime is how long each way of killing a command may take.
	killTime = 2 * time.Second
	// stdinChunk is how much of standard input travels at a time: the login node
	// starts one small program a chunk.
	stdinChunk = 256 << 10
)

// session is one command line that runs on a login node.
type session interface {
	io.Writer          // standard input
	CloseWrite() error // its end
	stdout() io.Reader
	stderr() io.Reader
	// exited is closed when the far end has ended or the connection was lost.
	exited() <-chan struct{}
	// whole says, after exited, that the far end told its end: all it wrote has
	// been or will be received.
	whole() bool
	// kill ends a process group of the login node by way of another session.
	kill(ctx context.Context, group int)
	// close gives the session up; it never waits for the network.
	close()
}

// errLost says that the connection or the session ended before the command did.
var errLost = errors.New("the session ended before the command did")

// exchange is one command on one session.
type exchange struct {
	session session
	command transport.Command
	header  string

	group   atomic.Int64  // process group of the running command, 0 before
	sent    atomic.Bool   // some of the header has been written
	fed     chan struct{} // closed when nothing reads standard input any more
	failure chan error    // what makes the command be killed
}

// run carries the command out. The caller has not yet written to the session,
// and closes it afterwards once it has exited.
func (x *exchange) run(ctx context.Context) (transport.Result, error) {
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails on Linux
	marker := "isthmus-" + hex.EncodeToString(random[:])
	x.failure, x.fed = make(chan error, 2), make(chan struct{})

	limit := int64(defaultMaxOutput)
	if x.command.MaxOutput > 0 {
		limit = x.command.MaxOutput
	}
	collected, tail := bounded.NewHead(limit), &kept{limit: stderrTail}
	out := &scanner{mark: []byte("\036" + marker), sink: collected, started: func(text string) {
		if n, err := strconv.ParseInt(text, 10, 32); err == nil && n > 1 {
			x.group.Store(n)
		}
	}}
	if x.command.Stdout != nil {
		out.sink = x.command.Stdout
	}
	errs := &scanner{mark: out.mark, sink: tail, started: func(string) {}}
	var outErr error
	outDone, errDone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(outDone)
		outErr = out.scan(x.session.stdout())
	}()
	go func() {
		defer close(errDone)
		_ = errs.scan(x.session.stderr()) // what is left tells the reason, if there is one
	}()
	go func() {
		defer close(x.fed)
		x.feed(marker)
	}()

	var cause error
	select {
	case <-outDone:
	case <-ctx.Done():
		cause = ctx.Err()
	case cause = <-x.failure:
	}
	ended := false // the command, as its end frame said
	select {
	case <-outDone:
		ended = outErr == nil && out.finished != 0
	default:
	}
	if ended {
		// The far end is about to end by itself, and whoever opened the session
		// sees to that.
		if !wait(errDone, drainTime) {
			x.session.close()
		}
	} else {
		x.end(outDone)
		x.session.close()
	}
	<-outDone
	<-errDone

	res := transport.Result{Stdout: collected.Bytes(), Stderr: tail.bytes(), Exit: -1}
	fail := func(err error) (transport.Result, error) {
		return res, fmt.Errorf("run %s: %w", x.command.Argv[0], err)
	}
	switch {
	case out.finished == frameEnd && outErr == nil:
		// A result that came is a result, whatever else happened since.
		exit, err := exitCode(out.text)
		if err != nil {
			return fail(err)
		}
		res.Exit = exit
		return res, nil
	case out.finished == frameNever && outErr == nil:
		return fail(fmt.Errorf("%w: %s", transport.ErrNotStarted, printable(out.text)))
	case cause != nil:
		if !x.sent.Load() {
			return fail(fmt.Errorf("%w: %w", transport.ErrNotStarted, cause))
		}
		return fail(cause)
	case outErr != nil && !out.begun && errors.Is(outErr, errNoise):
		return fail(x.unstarted(outErr, out, errs))
	case outErr != nil:
		return fail(fmt.Errorf("copy standard output: %w", outErr))
	case !out.begun && (!x.sent.Load() || x.session.whole()):
		return fail(fmt.Errorf("%w: %w", transport.ErrNotStarted, x.unstarted(errors.New("the login shell ended by itself"), out, errs)))
	default:
		return fail(errLost)
	}
}

// end kills the command and returns when nothing of it is left, as far as can be
// known. The end of standard input makes the script kill its group; when it
// cannot read, another session does it.
func (x *exchange) end(outDone <-chan struct{}) {
	patience := killTime
	if x.session.CloseWrite() != nil && !wait(outDone, 0) {
		patience = 0 // the script cannot read either; where its output has ended, its exit status is on the way
	}
	if wait(x.session.exited(), patience) {
		wait(outDone, drainTime)
		return
	}
	if group := x.group.Load(); group != 0 {
		// Not the caller's context: it may have ended, which is why we are here.
		ctx, stop := context.WithTimeout(context.Background(), killTime)
		defer stop()
		x.session.kill(ctx, int(group))
		wait(x.session.exited(), killTime)
	}
}

// wait waits for done, but not for ever, and reports whether it came.
func wait(done <-chan struct{}, most time.Duration) bool {
	select {
	case <-done:
		return true
	default:
	}
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// rewound is the error of a command after its run. What was not started may be run again
// with the same input, which is wound back for that where that is possible.
func (x *exchange) rewound(err error, rewind func() error) error {
	if rewind == nil || !errors.Is(err, transport.ErrNotStarted) {
		return err
	}
	if !wait(x.fed, drainTime) {
		x.session.close() // what feeds it does not block in it then
		if !wait(x.fed, drainTime) {
			return fmt.Errorf("%w; its standard input is still being read", err)
		}
	}
	if back := rewind(); back != nil {
		return fmt.Errorf("%w; wind the standard input back: %w", err, back)
	}
	return err
}

// feed writes the header and standard input. It is not waited for: the reader
// may block for ever, and the command may end without having read everything.
func (x *exchange) feed(marker string) {
	var first strings.Builder
	first.WriteString(marker)
	first.WriteByte('\n')
	first.WriteString(x.header)
	x.sent.Store(true)
	if _, err := io.WriteString(x.session, first.String()); err != nil || x.command.Stdin == nil {
		return // a lost session shows in its streams
	}
	buf := make([]byte, stdinChunk)
	const room = 16 // for the line with the length
	for {
		n, err := x.command.Stdin.Read(buf[room:])
		if n > 0 {
			line := strconv.Itoa(n) + "\n"
			copy(buf[room-len(line):], line)
			if _, werr := x.session.Write(buf[room-len(line) : room+n]); werr != nil {
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_, _ = io.WriteString(x.session, "0\n")
			return
		case err != nil:
			// Half of an input must not pass for a whole one.
			x.failure <- fmt.Errorf("read standard input: %w", err)
			return
		}
	}
}

// unstarted tells why a command was not started in the words of the login node.
func (x *exchange) unstarted(err error, out, errs *scanner) error {
	said := printable(string(errs.noise))
	if said == "" {
		said = printable(string(out.noise))
	}
	if said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	if strings.Contains(said, "sudo:") || strings.Contains(said, "not available") {
		err = fmt.Errorf("%w: %w", transport.ErrDenied, err)
	}
	return err
}

// printable makes text of the far end fit for errors: one line, valid, bounded.
func printable(s string) string {
	const most = 512
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[len(s)-most:], "")
	}
	return s
}

// once closes a channel at most once.
type once struct {
	sync.Once
	c chan struct{}
}

func newOnce() *once   { return &once{c: make(chan struct{})} }
func (o *once) close() { o.Do(func() { close(o.c) }) }
