package main

import (
	"context"
	"io"
	"os/exec"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// marked counts the processes with a text in their environment.
func marked(t *testing.T, text string) int {
	t.Helper()
	n, err := process.Marked(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Whoever goes away leaves nothing running: one exchange, or the connection.
func TestExecLeavesNothing(t *testing.T) {
	for name, leave := range map[string]func(*stream.Client, *exec.Cmd, context.CancelFunc){
		"the exchange ends":        func(_ *stream.Client, _ *exec.Cmd, cancel context.CancelFunc) { cancel() },
		"the connection is closed": func(c *stream.Client, _ *exec.Cmd, _ context.CancelFunc) { _ = c.Close() },
		"the relay is killed":      func(_ *stream.Client, cmd *exec.Cmd, _ context.CancelFunc) { _ = cmd.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			b := sleeper(t)
			c, relay := b.dial()
			mark := "EXEC_TEST=" + t.Name()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			// It ignores what it can, and has a daemon in a session of its own.
			text := `export '` + mark + `'; trap '' TERM HUP INT; setsid sleep 500 & (setsid sh -c 'sleep 501 & sleep 502' &); echo up; while :; do sleep 503; done`
			ended := make(chan error, 2)
			for _, tty := range []bool{false, true} {
				req := script(text)
				req.TTY = tty
				go func() {
					_, err := c.Do(ctx, req, stream.IO{Stdin: endless{}, Stdout: io.Discard})
					ended <- err
				}()
			}
			until(t, "all of it runs", func() bool { return marked(t, mark) >= 10 })
			leave(c, relay, cancel)
			for range 2 {
				if err := <-ended; err == nil {
					t.Error("an exchange that was broken off ended well")
				}
			}
			until(t, "nothing of it runs", func() bool { return marked(t, mark) == 0 })
			if !b.runningNow("main") {
				t.Error("the container went with it")
			}
		})
	}
}

// The end of the container is the end of what was started in it.
func TestExecEndsWithContainer(t *testing.T) {
	b := sleeper(t)
	c, _ := b.dial()
	exits := make(chan stream.Exit, 1)
	out := &lines{}
	go func() {
		exit, err := c.Do(t.Context(), script("echo up; exec sleep 1000"), stream.IO{Stdout: out})
		if err != nil {
			exit.Message = err.Error()
		}
		exits <- exit
	}()
	out.until(t, "up")
	b.stop(manifest.Stop{GraceSeconds: 1})
	if exit := <-exits; exit.Code != 137 {
		t.Errorf("got %+v, want 137", exit)
	}
}

// Attaching shows the output from then on, and reaches the input.
