package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// bench is a place of its own for one run of the program: everything it makes
// is below TMPDIR, which all its processes carry in their environment.
type bench struct {
	t       *testing.T
	program string
	tmp     string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a control plane and a batch system, which is not short")
	}
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, program: filepath.Join(root, "bin", "isthmus-test")}
	build := checkout.GoBuild{Module: root, Package: "./cmd/isthmus", Output: b.program}
	if err := build.Run(t.Context(), t.Output(), "building isthmus"); err != nil {
		t.Fatal(err)
	}
	// The users that jobs run as walk in here, which t.TempDir does not let them.
	if b.tmp, err = os.MkdirTemp("", "isthmus-test-"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(b.tmp, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("files are kept in ", b.tmp)
		} else if err := os.RemoveAll(b.tmp); err != nil {
			t.Error(err)
		}
	})
	return b
}

// output is what a program has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (b *bench) command(args ...string) (*exec.Cmd, *output) {
	cmd := exec.CommandContext(b.t.Context(), b.program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Env = append(os.Environ(), "TMPDIR="+b.tmp)
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// run runs the program to its end.
func (b *bench) run(args ...string) (string, int) {
	b.t.Helper()
	cmd, out := b.command(args...)
	err := cmd.Run()
	if cmd.ProcessState == nil {
		b.t.Fatalf("isthmus %v: %v", args, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// left lists the processes that carry the bench in environment or arguments.
func (b *bench) left() []string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// Both are empty once a process has ended and waits to be reaped.
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if bytes.Contains(cmdline, []byte(b.tmp)) || bytes.Contains(environ, []byte(b.tmp)) {
			found = append(found, fmt.Sprintf("%d %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
		}
	}
	return found
}

func (b *bench) nothingLeft(within time.Duration) {
	b.t.Helper()
	if !eventually(b.t.Context(), within, func() bool { return len(b.left()) == 0 }) {
		b.t.Errorf("still running after %s:\n%s", within, strings.Join(b.left(), "\n"))
	}
}

func eventually(ctx context.Context, within time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func TestDemo(t *testing.T) {
	b := newBench(t)
	out, code := b.run("demo")
	for _, want := range []string{
		"testbed-a100   Ready", "testbed-h100   Ready",
		"rank 3 of 4", "ok      exactly one batch job ran them", "ok      the Job is Completed",
		"Done: nothing is left running",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output has no %q", want)
		}
	}
	if code != 0 || strings.Contains(out, "FAILED") {
		t.Errorf("exit code %d, output:\n%s", code, out)
	}
	b.nothingLeft(0)
	if files, err := os.ReadDir(b.tmp); err != nil || len(files) > 0 {
		t.Errorf("files left: %v, error %v", files, err)
	}
}

// TestDemoEndsClean ends the demo in the midst of it.
func TestDemoEndsClean(t *testing.T) {
	for name, tt := range map[string]struct {
		signal syscall.Signal
		at     string // is sent once this was printed
		code   int
	}{
		"Ctrl-C while it starts":          {syscall.SIGINT, "Custom resource definitions", 130},
		"Ctrl-C while the job runs":       {syscall.SIGINT, "Following it", 130},
		"killed while it starts":          {syscall.SIGKILL, "batch system", -1},
		"killed while the batch job runs": {syscall.SIGKILL, "RUNNING on", -1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			cmd, out := b.command("demo")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The parts of the start are named once they are done, except the first.
			printed := eventually(t.Context(), 4*time.Minute, func() bool {
				lines := strings.Split(out.String(), "\n")
				return slices.ContainsFunc(lines[1:], func(l string) bool {
					return strings.Contains(l, tt.at) && !strings.Contains(l, "Starting a")
				})
			})
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // the exit code tells
			if !printed || cmd.ProcessState.ExitCode() != tt.code {
				t.Errorf("exit code %d, want %d; output:\n%s", cmd.ProcessState.ExitCode(), tt.code, out)
			}
			within := 30 * time.Second // for the tether
			if tt.signal == syscall.SIGINT {
				within = 0
			}
			b.nothingLeft(within)
		})
	}
}

func TestUpStatusDown(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(b.tmp, "state")
	t.Cleanup(func() { // also when the test fails half-way
		cmd := exec.Command(b.program, "down", "--dir", dir)
		cmd.Env = append(os.Environ(), "TMPDIR="+b.tmp)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
		if left := b.left(); len(left) > 0 {
			t.Errorf("still running after down:\n%s", strings.Join(left, "\n"))
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("the state directory is still there: %v", err)
		}
	})
	step := func(want string, wantCode int, args ...string) {
		t.Helper()
		out, code := b.run(append(args, "--dir", dir)...)
		if code != wantCode || !strings.Contains(out, want) {
			t.Fatalf("isthmus %v: exit code %d, want %d and %q; output:\n%s", args, code, wantCode, want, out)
		}
	}
	step("nothing is up", 1, "status")
	step("Nothing is up", 0, "down")
	step("export KUBECONFIG=", 0, "up")
	step("testbed-a100", 0, "status")
	step("up already, and healthy", 0, "up")
	step("runs already, with batch system", 1, "up", "--batch", "other")
	for _, name := range []string{"kube-apiserver", "scheduler"} {
		b.kill(dir, name)
	}
	step("these have ended: [kube-apiserver scheduler]", 1, "status")
	step("Starting them again", 0, "up")
	step("testbed-a100", 0, "status")
}

// kill ends the process that `up` started under the name, as a crash would.
func (b *bench) kill(dir, name string) {
	b.t.Helper()
	p := findProcess(b.t, dir, name)
	if err := p.Kill(); err != nil {
		b.t.Fatal(err)
	}
}

func findProcess(t *testing.T, dir, name string) *process.Process {
	t.Helper()
	e, err := environment.Attach(dir, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range e.Processes() {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("there is no process %s", name)
	return nil
}

// TestDemoLocal is what a person without root or Slurm sees, but as root, so
// that jobs run as the mapped user here too.
func TestDemoLocal(t *testing.T) {
	b := newBench(t)
	out, code := b.run("demo", "--batch", "local")
	if code != 0 || !strings.Contains(out, "ok      exactly one batch job ran them: local job") {
		t.Errorf("exit code %d, output:\n%s", code, out)
	}
	b.nothingLeft(0)
}
