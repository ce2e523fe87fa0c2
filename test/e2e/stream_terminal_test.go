package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/pty"
)

// terminal runs kubectl on a terminal of its own.
func (s *streams) terminal(args ...string) (master *os.File, cmd *exec.Cmd) {
	s.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		s.Fatal(err)
	}
	if err := pty.Resize(master, 101, 31); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	s.Cleanup(cancel)
	cmd = s.env.KubectlCommand(ctx, append([]string{"-n", s.ns}, args...)...)
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	_ = slave.Close()
	s.Cleanup(func() { _ = master.Close() })
	return master, cmd
}

// screen collects what a terminal shows.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func watchScreen(master *os.File) *screen {
	c := &screen{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			c.mu.Lock()
			c.buf.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *screen) until(s *streams, want string) {
	s.Helper()
	eventually(s.T, 30*time.Second, fmt.Sprintf("the terminal shows %q", want), func() (bool, string) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return strings.Contains(c.buf.String(), want), c.buf.String()
	})
}

// A shell on a terminal: its size, a change of it, Ctrl-C, and its exit code.
func testTerminal(s *streams) {
	s.pod("term", sleeper)
	s.running("term")
	master, cmd := s.terminal("exec", "-it", "term", "--", "/bin/sh")
	c := watchScreen(master)
	write := func(text string) {
		if _, err := master.Write([]byte(text)); err != nil {
			s.Fatal(err)
		}
	}
	write("test -t 0 && echo a-$((40+2))-tty\n")
	c.until(s, "a-42-tty")
	shows := func(size string) func() (bool, string) { // the client sends a size beside the input, in no fixed order
		return func() (bool, string) {
			write("stty size\n")
			c.mu.Lock()
			defer c.mu.Unlock()
			return strings.Contains(c.buf.String(), size), c.buf.String()
		}
	}
	eventually(s.T, 20*time.Second, "the size arrives", shows("31 101"))
	if err := pty.Resize(master, 77, 22); err != nil {
		s.Fatal(err)
	}
	eventually(s.T, 20*time.Second, "the new size arrives", shows("22 77"))
	write("/bin/sh -c 'trap \"echo caught-\\$((1+1)); exit\" INT; echo armed-$((3+3)); while :; do sleep 0.1; done'\n")
	c.until(s, "armed-6")
	write("\x03")
	c.until(s, "caught-2")
	write("exit 9\n")
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 9 {
		s.Errorf("the shell ended with %v", err)
	}
	s.must("delete", "pod", "term", "--wait=false")
}
