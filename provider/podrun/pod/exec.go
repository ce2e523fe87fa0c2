package pod

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/pty"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// Exit codes of a command that could not be executed, as a shell gives them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

const (
	// hangUp is how long a program has to end by itself once its user has gone.
	hangUp = 2 * time.Second
	// rest is how long output may still come after the program has ended: what
	// it left behind may hold its streams for ever.
	rest = time.Second
)

// present is the present run of a container.
type present struct {
	box     *runtime.Container
	mark    process.Mark
	console *console
}

// exec starts a program in a running container and stays with it to its end. An
// error is for the reply: nothing has been started then.
func (s *server) exec(ctx context.Context, conn *stream.Conn, req stream.Request) error {
	if len(req.Command) == 0 || len(req.Command[0]) == 0 {
		return refusal(stream.ReasonInvalid, "no command")
	}
	for i, w := range req.Command {
		if bytes.IndexByte(w, 0) >= 0 {
			return refusal(stream.ReasonInvalid, "argument %d of the command has a NUL byte", i)
		}
	}
	c, _, err := s.find(req.Container)
	if err != nil {
		return err
	}
	std, err := newConsole(req.Stdin, req.TTY)
	if err != nil {
		return err
	}
	defer std.close()
	child, mark, err := c.beside(req.Command, std)
	std.started()
	var f *stage.Failure
	switch {
	case errors.As(err, &f) && f.Kind == "exec":
		code := codeNotExecutable
		if f.Missing {
			code = codeNotFound
		}
		if err := accepted(conn); err != nil {
			return nil // the other side has gone, and nothing runs
		}
		_ = conn.Write(kindOf(!req.TTY), []byte(f.Error()+"\n"))
		_ = conn.Send(stream.KindExit, stream.Exit{Code: code}) // one that has gone needs no code
		return nil
	case err != nil:
		return err
	}
	s.accompany(ctx, conn, child, mark, std)
	return nil
}

// beside starts a command beside a container's main program: with its view of
// the filesystem, its environment and its limits. Without a console it has no
// streams. It fails when the container has ended.
func (c *container) beside(command [][]byte, std *console) (*stage.Process, process.Mark, error) {
	c.mu.Lock()
	defer c.mu.Unlock() // so that the container's end, which kills what is in it, comes before or after
	if c.now == nil {
		return nil, process.Mark{}, refusal(stream.ReasonNotRunning, "container %q is not running: %s", c.spec.Name, c.words())
	}
	sb := c.now.box.Main
	id := rand.Text()
	sb.Argv = command
	sb.Env = append(slices.Clone(sb.Env), []byte(process.ExecVariable+"="+id))
	files := []*os.File{nil, nil, nil}
	if sb.Terminal = false; std != nil {
		files = std.child
		if sb.Terminal = std.master != nil; sb.Terminal && !has(sb.Env, "TERM=") {
			sb.Env = append(sb.Env, []byte("TERM=xterm"))
		}
	}
	start, err := c.pod.runtime.Exec(c.now.box, c.now.mark.Main, sb)
	if err != nil {
		return nil, process.Mark{}, err
	}
	child, err := c.pod.driver.Start(start, files[0], files[1], files[2])
	if err != nil {
		return nil, process.Mark{}, err
	}
	return child, process.Mark{PID: child.PID(), Exec: id}, nil
}

func has(env [][]byte, prefix string) bool {
	return slices.ContainsFunc(env, func(v []byte) bool { return bytes.HasPrefix(v, []byte(prefix)) })
}

// accompany passes streams to and fro until the program has ended, or kills it
// when the other side goes.
func (s *server) accompany(ctx context.Context, conn *stream.Conn, child *stage.Process, mark process.Mark, std *console) {
	gone := make(chan struct{})
	var once sync.Once
	leave := func() { once.Do(func() { close(gone) }) }
	in := stream.NewInput(conn)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer func() { _ = conn.Close() }() // ends the reader
	defer std.close()                   // ends what writes to a program that does not read
	defer in.End()
	if accepted(conn) != nil {
		leave()
	}
	helpers.Go(func() { reader(conn, in, std.resize(), leave) })
	helpers.Go(func() {
		w := std.input()
		if w == nil {
			return
		}
		if eof, err := in.CopyTo(w); eof || err != nil {
			std.closeInput()
		}
	})
	var output sync.WaitGroup
	output.Go(func() { pass(conn, stream.KindStdout, std.out, leave) })
	if std.errs != nil {
		output.Go(func() { pass(conn, stream.KindStderr, std.errs, leave) })
	}
	select {
	case <-child.Done():
	case <-gone:
		s.dismiss(child, mark, std)
	case <-ctx.Done():
		s.dismiss(child, mark, std)
	}
	std.drain(rest)
	output.Wait()
	t := terminated(child.Status())
	_ = conn.Send(stream.KindExit, stream.Exit{Code: int(t.ExitCode)}) // one that has gone needs no code
}

// dismiss ends a program whose user has gone, with all it has started.
func (s *server) dismiss(child *stage.Process, mark process.Mark, std *console) {
	mark.SignalSession(syscall.SIGHUP)
	mark.SignalSession(syscall.SIGTERM)
	mark.SignalSession(syscall.SIGCONT)
	timer := time.NewTimer(hangUp)
	defer timer.Stop()
	select {
	case <-child.Done():
	case <-timer.C:
	}
	if err := mark.KillAll(killLimit); err != nil {
		s.r.warn(fmt.Errorf("exec: %w", err))
	}
	<-child.Done()
}

// resize gives what sets the terminal's size, nil without a terminal.
func (c *console) resize() func(stream.Size) {
	if c.master == nil {
		return nil
	}
	return func(s stream.Size) {
		_ = pty.Resize(c.master, s.Width, s.Height) // a terminal that has gone has no size
	}
}

func kindOf(errs bool) stream.Kind {
	if errs {
		return stream.KindStderr
	}
	return stream.KindStdout
}

// pass copies output to the other side. When that has gone it goes on reading,
// so that the program is not held up before it is ended.
func pass(conn *stream.Conn, kind stream.Kind, r io.Reader, gone func()) {
	buf := make([]byte, stream.MaxPayload)
	deaf := false
	for {
		n, err := r.Read(buf)
		if n > 0 && !deaf && conn.Write(kind, buf[:n]) != nil {
			deaf = true
			gone()
		}
		if err != nil {
			return // its end, a terminal's hang-up, or the deadline of drain
		}
	}
}
