package frameworks

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// goModule is one below modules, which pins software that comes as a Go module.
type goModule struct {
	t   *testing.T
	dir string
}

func module(t *testing.T, name string) goModule {
	return goModule{t, filepath.Join(root(t), "test", "frameworks", "modules", name)}
}

// build gives a program of the module, built when the pins have changed.
func (m goModule) build(pkg string) string {
	m.t.Helper()
	cache, err := checkout.CacheDir()
	if err != nil {
		m.t.Fatal(err)
	}
	dir := filepath.Join(cache, "frameworks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	unlock, err := checkout.Lock(m.t.Context(), filepath.Join(dir, "lock"), m.t.Output())
	if err != nil {
		m.t.Fatal(err)
	}
	defer unlock()
	program := filepath.Join(dir, filepath.Base(pkg))
	fmt.Fprintf(m.t.Output(), "building %s (minutes the first time)\n", pkg)
	build := checkout.GoBuild{Module: m.dir, Package: pkg, Output: program, Flags: []string{"-mod=readonly", "-ldflags", "-s -w"}}
	if err := build.Run(m.t.Context(), m.t.Output(), filepath.Base(pkg)); err != nil {
		m.t.Fatal(err)
	}
	return program
}

// source is the directory of a module's source.
func (m goModule) source(path string) string {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), "go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("find the source of %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}

// start runs a program beside the cluster until the test ends.
func start(t *testing.T, environment []string, argv ...string) (log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), filepath.Base(argv[0])+".log")
	file, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		_ = file.Close()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", filepath.Base(argv[0]), process.Tail(log, 40))
		}
	})
	return log
}

// port is a free one of this machine.
func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
}

// logged waits until a program's log has a text.
func logged(t *testing.T, log, want string) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("%s says %q", filepath.Base(log), want), func() (bool, string) {
		raw, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(raw, []byte(want)), process.Tail(log, 3)
	})
}
