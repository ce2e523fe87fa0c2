package pod

import (
	"context"
	"sync"

	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// attach connects to the main program of a container until that ends or the
// other side goes. The program goes on.
func (s *server) attach(ctx context.Context, conn *stream.Conn, req stream.Request) error {
	c, now, err := s.find(req.Container)
	if err != nil {
		return err
	}
	if req.TTY && !c.spec.TTY {
		return refusal(stream.ReasonInvalid, "container %q has no terminal (tty: false)", c.spec.Name)
	}
	std := now.console
	seat := std.attach()
	if seat == nil {
		return refusal(stream.ReasonNotRunning, "container %q has just ended", c.spec.Name)
	}
	defer std.leave(seat)
	if err := accepted(conn); err != nil {
		return nil // the other side has gone, and the container goes on
	}
	in := stream.NewInput(conn)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer func() { _ = conn.Close() }() // ends the reader
	defer in.End()
	stop := context.AfterFunc(ctx, func() { seat.end(nil) })
	defer stop()
	helpers.Go(func() { reader(conn, in, std.resize(), func() { seat.end(nil) }) })
	if w := std.input(); req.Stdin && w != nil { // input of a container without is dropped, as a kubelet does
		// Not waited for: a program that does not read holds it up until it ends.
		go func() {
			_, _ = in.CopyTo(w) // the program's end is told below
			if c.spec.StdinOnce {
				std.closeInput()
			}
		}()
	}
	exit := stream.Exit{}
	for {
		p, ok, err := seat.next()
		if err != nil {
			exit.Message = err.Error()
		}
		if !ok {
			break
		}
		if conn.Write(kindOf(p.errs), p.data) != nil {
			return nil
		}
	}
	_ = conn.Send(stream.KindExit, exit) // one that has gone needs no end
	return nil
}
