package e2e

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// marked counts the processes that have a text in their environment.
func marked(t *testing.T, text string) int {
	t.Helper()
	n, err := process.Marked(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// relays counts the programs that join the daemon with pods of this environment.
func (s *streams) relays() int {
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		s.Fatal(err)
	}
	n := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err == nil && bytes.Contains(data, []byte("\x00stream\x00")) && bytes.Contains(data, []byte(s.env.Staging)) {
			n++
		}
	}
	return n
}

// A client that is killed in the middle leaves nothing on the compute node.
func testKilledClient(s *streams) {
	s.pod("killed", sleeper)
	s.running("killed")
	mark := "STREAM_TEST_MARK=" + crand.Text()
	text := "export " + mark + "; trap '' TERM HUP INT; setsid sleep 500 & (setsid sleep 501 &); echo up; while :; do sleep 502; done"
	for _, flags := range [][]string{{"-i"}, {}} {
		ctx, cancel := context.WithCancel(s.Context())
		cmd := s.env.KubectlCommand(ctx, append(append([]string{"-n", s.ns, "exec"}, flags...), "killed", "--", "/bin/sh", "-c", text)...)
		if len(flags) > 0 {
			in, err := cmd.StdinPipe() // open and silent
			if err != nil {
				s.Fatal(err)
			}
			defer func() { _ = in.Close() }()
		}
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			s.Fatal(err)
		}
		eventually(s.T, time.Minute, "all of it runs", func() (bool, string) { n := marked(s.T, mark); return n >= 3, fmt.Sprint(n) })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		cancel()
		eventually(s.T, 30*time.Second, "nothing of it is left", func() (bool, string) { n := marked(s.T, mark); return n == 0, fmt.Sprint(n) })
	}
	eventually(s.T, time.Minute, "the way to the host is closed as well", func() (bool, string) { n := s.relays(); return n == 0, fmt.Sprint(n) })
	if p := s.must("get", "pod", "killed", "-o", "jsonpath={.status.phase}"); p != "Running" {
		s.Errorf("the pod is %s", p)
	}
	s.must("delete", "pod", "killed", "--wait=false")
}

// A daemon that is killed while a command runs leaves nothing of it, and the
// next one serves the pod.
func testDaemonRestart(s *streams) {
	s.pod("survivor", sleeper)
	s.running("survivor")
	mark := "STREAM_TEST_MARK=" + crand.Text()
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	cmd := s.env.KubectlCommand(ctx, "-n", s.ns, "exec", "survivor", "--", "/bin/sh", "-c", "export "+mark+"; while :; do sleep 500; done")
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	eventually(s.T, time.Minute, "it runs", func() (bool, string) { n := marked(s.T, mark); return n >= 1, fmt.Sprint(n) })
	for _, p := range s.env.Processes() {
		if strings.HasPrefix(p.Name, "vnode") {
			if err := p.Kill(); err != nil {
				s.Fatal(err)
			}
		}
	}
	eventually(s.T, time.Minute, "nothing of it is left", func() (bool, string) { n := marked(s.T, mark); return n == 0, fmt.Sprint(n) })
	_ = cmd.Wait()
	if err := s.env.Repair(s.Context()); err != nil {
		s.Fatal(err)
	}
	eventually(s.T, time.Minute, "exec works again", func() (bool, string) {
		out, errs, code := s.sh(nil, "exec", "survivor", "--", "echo", "here")
		return code == 0 && out == "here\n", errs
	})
	s.must("delete", "pod", "survivor", "--wait=false")
}
