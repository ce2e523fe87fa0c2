package pod

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// forward connects to a port of the pod and passes bytes to and fro until both
// sides have ended.
func (s *server) forward(ctx context.Context, conn *stream.Conn, req stream.Request) error {
	if req.Port < 1 || req.Port > 65535 {
		return refusal(stream.ReasonInvalid, "port %d is not 1 to 65535", req.Port)
	}
	to, err := dialPod(ctx, s.r.at.ip, int(req.Port))
	if err != nil {
		return refusal(stream.ReasonNotRunning, "connect to port %d: %v", req.Port, err)
	}
	defer func() { _ = to.Close() }()
	if err := accepted(conn); err != nil {
		return nil // the other side has gone
	}
	in := stream.NewInput(conn)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer func() { _ = conn.Close() }() // ends the reader
	defer func() { _ = to.Close() }()   // ends what waits for the program
	defer in.End()
	stop := context.AfterFunc(ctx, func() { _ = to.Close() })
	defer stop()
	helpers.Go(func() { reader(conn, in, nil, func() { _ = to.Close() }) })
	helpers.Go(func() {
		if eof, _ := in.CopyTo(to); eof {
			_ = to.CloseWrite() // the program may still answer
		}
	})
	exit := stream.Exit{}
	buf := make([]byte, stream.MaxPayload)
	for {
		n, err := to.Read(buf)
		if n > 0 && conn.Write(stream.KindStdout, buf[:n]) != nil {
			return nil
		}
		if err != nil {
			if err != io.EOF { //nolint:errorlint // Read gives it bare
				exit.Message = err.Error()
			}
			break
		}
	}
	_ = conn.Send(stream.KindExit, exit) // one that has gone needs no end
	return nil
}

// dialPod connects to a port on loopback or else on the pod's address. The
// host's ports are everybody's, so the listener must be our user's.
func dialPod(ctx context.Context, ip string, port int) (*net.TCPConn, error) {
	owners, known := listeners(port)
	if known && !slices.Contains(owners, os.Geteuid()) {
		if len(owners) > 0 {
			return nil, fmt.Errorf("what listens there is another user's, not the pod's")
		}
		return nil, fmt.Errorf("connection refused: nothing listens on port %d of this host", port)
	}
	var d net.Dialer
	var first error
	for _, addr := range []string{"127.0.0.1", "::1", ip} {
		if addr == "" {
			continue
		}
		c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
		if tcp, ok := c.(*net.TCPConn); ok && err == nil {
			return tcp, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// listeners gives the owners of the sockets that listen on a port, from
// /proc/net/tcp (proc_net_tcp.rst of the kernel). known is false when that
// cannot be read.
func listeners(port int) (uids []int, known bool) {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		known = true
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if uid, ok := listener(lines.Text(), port); ok {
				uids = append(uids, uid)
			}
		}
		_ = f.Close() // it was only read
	}
	return uids, known
}

// listener reads one line: "sl: local remote st tx:rx tr:when retr uid ...".
func listener(line string, port int) (uid int, ok bool) {
	f := strings.Fields(line)
	if len(f) < 8 || f[3] != "0A" { // TCP_LISTEN
		return 0, false
	}
	_, text, _ := strings.Cut(f[1], ":")
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 2 || int(b[0])<<8|int(b[1]) != port {
		return 0, false
	}
	uid, err = strconv.Atoi(f[7])
	return uid, err == nil
}
