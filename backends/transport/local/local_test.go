package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/backends/transport/transporttest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

func run(t *testing.T, c transport.Command) transport.Result {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	res, err := local.New().Run(ctx, c)
	if err != nil {
		t.Fatalf("run %q: %v", c.Argv, err)
	}
	return res
}

func TestConformance(t *testing.T) {
	h := transporttest.Harness{New: func(*testing.T) transport.Runner { return local.New() }}
	if os.Geteuid() == 0 {
		if err := account.Ensure(t.Context(), t.Output()); err != nil {
			t.Fatal(err)
		}
		h.User = account.Alice
	}
	transporttest.Run(t, h)
}

func TestOtherUserNeedsRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := local.New().Run(t.Context(), transport.Command{Argv: []string{"/bin/true"}, User: "nobody"})
		if !errors.Is(err, transport.ErrNotStarted) || !strings.Contains(err.Error(), "not root") {
			t.Errorf("got %v", err)
		}
		return
	}
	// The same, from a copy of this test that runs as somebody else.
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "local-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	raw, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy.test")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(copied, raw, 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	res := run(t, transport.Command{User: account.Bob, Argv: []string{copied, "-test.run", "^TestOtherUserNeedsRoot$", "-test.v"}})
	if res.Exit != 0 || !strings.Contains(string(res.Stdout), "--- PASS") {
		t.Errorf("exit %d: %s%s", res.Exit, res.Stdout, res.Stderr)
	}
}
