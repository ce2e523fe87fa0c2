// Package venv installs Python software of exact versions for jobs of all users:
// a virtual environment for each file of requirements, made once.
package venv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// Dir is where the environments are: not in the cache directory, since a home
// directory keeps the users out whose jobs run the software.
const Dir = "/var/cache/isthmus-frameworks"

// python is the system's: another one may lie where other users cannot enter.
const python = "/usr/bin/python3"

// stamp is the file with the requirements that an environment has.
const stamp = "isthmus-requirements.txt"

// Ensure makes the environment Dir/<name> with what the file requires, unless it
// has just that, and returns its path. A requirements file names every package
// with an exact version, dependencies too: none is added. It needs root and pip's
// index, and tells w what it does. Programs that call it at the same time wait
// for one another.
func Ensure(ctx context.Context, w io.Writer, name, requirements string) (string, error) {
	want, err := os.ReadFile(requirements)
	if err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	if err := exact(want); err != nil {
		return "", fmt.Errorf("install %s: %s: %w", name, requirements, err)
	}
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(Dir, name+".lock"), w)
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(Dir, name)
	if has, err := os.ReadFile(filepath.Join(dir, stamp)); err == nil && bytes.Equal(has, want) {
		return dir, nil
	}
	software := debian.Software{Programs: []string{python, "/usr/lib/python3.11/ensurepip/__init__.py"}, Packages: []string{"python3", "python3-venv"}}
	if err := software.Ensure(ctx, w); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	// What a broken-off installation left is of no use.
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("install %s: %w", name, err)
	}
	fmt.Fprintf(w, "installing %s into %s\n", filepath.Base(requirements), dir)
	for _, argv := range [][]string{
		{python, "-m", "venv", dir},
		{filepath.Join(dir, "bin", "pip"), "install", "--no-cache-dir", "--no-deps", "--progress-bar", "off", "--requirement", requirements},
	} {
		if err := run(ctx, w, argv); err != nil {
			return "", fmt.Errorf("install %s: %w", name, err)
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, stamp), want, 0o644) //nolint:gosec // other users may read it
}

// exact fails unless every line that is no comment pins a version.
func exact(requirements []byte) error {
	var errs []error
	for line := range strings.Lines(string(requirements)) {
		line = strings.TrimSpace(line)
		if name, version, ok := strings.Cut(line, "=="); line != "" && line[0] != '#' && (!ok || name == "" || version == "") {
			errs = append(errs, fmt.Errorf("%q: want NAME==VERSION", line))
		}
	}
	return errors.Join(errs...)
}

// run runs a command and tells how long it takes, since downloads are large.
func run(ctx context.Context, w io.Writer, argv []string) error {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	done := make(chan error, 1)
	start := time.Now()
	go func() { done <- cmd.Run() }()
	tick := time.NewTicker(20 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			fmt.Fprintf(w, "  %s: %s so far\n", filepath.Base(argv[0]), time.Since(start).Round(time.Second))
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, bytes.TrimSpace(said.Bytes()))
			}
			return nil
		}
	}
}
