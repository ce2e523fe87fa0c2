// Package checkout finds the source tree that the testbed builds from, and
// builds Go programs with progress that a person can follow.
package checkout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const module = "module github.com/isthmus-hpc/isthmus\n"

// Root finds the checkout: the nearest directory with this module's go.mod, at
// or above the working directory or else the running program.
func Root() (string, error) {
	var from []string
	if dir, err := os.Getwd(); err == nil {
		from = append(from, dir)
	}
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	for _, dir := range from {
		for {
			raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && bytes.HasPrefix(raw, []byte(module)) {
				return dir, nil
			}
			parent := filepath.Dir(dir)
			if parent == dir {
				break
			}
			dir = parent
		}
	}
	return "", errors.New("find the Isthmus checkout: neither the working directory nor this program is inside one; change to it first")
}

// CacheDir is where built things are kept between runs: $ISTHMUS_CACHE or
// $HOME/.cache/isthmus. It is created when missing.
func CacheDir() (string, error) {
	dir := os.Getenv("ISTHMUS_CACHE")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory: %w (set ISTHMUS_CACHE)", err)
		}
		dir = filepath.Join(home, ".cache", "isthmus")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	return dir, nil
}

// GoBuild is one run of `go build`.
type GoBuild struct {
	Module  string   // directory with the go.mod
	Package string   // import path, or relative to Module
	Output  string   // the program; written whole or not at all
	Flags   []string // further flags, such as -ldflags
	Cgo     bool
}

// Run builds the program. While it lasts, a line is written to progress now and
// then: label and the time so far. When ctx ends the compiler and all it
// started are ended too.
func (b GoBuild) Run(ctx context.Context, progress io.Writer, label string) error {
	start := time.Now()
	tmp := fmt.Sprintf("%s.new-%d", b.Output, os.Getpid())
	defer func() { _ = os.Remove(tmp) }()
	// Given the last output, go build sees that nothing changed and does not link
	// again, which takes seconds. Without it, it builds all the same.
	_ = copyFile(b.Output, tmp)
	args := append([]string{"build", "-trimpath", "-o", tmp}, b.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, b.Package)...)
	cmd.Dir = b.Module
	cgo := "0"
	if b.Cgo {
		cgo = "1"
	}
	// A workspace or flags of the person's own must not change what is built.
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo, "GOFLAGS=", "GOWORK=off")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	done := make(chan error, 1)
	go func() {
		// The compiler dies with us, which the kernel ties to the thread that starts it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	tick := time.NewTicker(15 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(progress, "  %s: %s so far\n", label, time.Since(start).Round(time.Second))
		case err := <-done:
			if ctx.Err() != nil {
				return fmt.Errorf("build %s: %w", b.Package, ctx.Err())
			}
			if err != nil {
				return fmt.Errorf("build %s: %w\n%s", b.Package, err, bytes.TrimSpace(out.Bytes()))
			}
			if err := os.Rename(tmp, b.Output); err != nil {
				return fmt.Errorf("build %s: %w", b.Package, err)
			}
			return nil
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Lock takes an exclusive lock on the file, which it creates, so that two
// programs do not build the same thing at once. It tells progress when it has
// to wait. The lock ends with unlock or with the program.
func Lock(ctx context.Context, path string, progress io.Writer) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			fmt.Fprintf(progress, "waiting for another program that holds %s\n", path)
			told = true
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", path, ctx.Err())
		}
	}
}
