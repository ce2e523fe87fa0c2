// Package helm builds helm from the pinned module and renders the project's
// chart with it, as a user's helm does.
package helm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// Version is the release that the pins in test/testbed/helm/module give.
const Version = "v4.3.1"

// EnsureBuilt builds helm when it is missing or the pins changed, and returns
// its path. It takes about two minutes once, and a few milliseconds later.
// Several programs may call it at once: one builds, the others wait.
func EnsureBuilt(ctx context.Context, progress io.Writer) (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, "test", "testbed", "helm", "module")
	var pins []byte
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("read helm's pins: %w", err)
		}
		pins = append(pins, raw...)
	}
	sum := sha256.Sum256(pins)
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", err
	}
	// The pins are part of the name: helm of two pins never passes for one.
	dir := filepath.Join(cache, "helm-"+Version+"-"+hex.EncodeToString(sum[:6]))
	program := filepath.Join(dir, "helm")
	if built(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory for helm: %w", err)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if built(program) { // another program built it while we waited
		return program, nil
	}
	fmt.Fprintf(progress, "building helm %s into %s\n  this happens once; expect two minutes on two cores\n", Version, dir)
	began := time.Now()
	build := checkout.GoBuild{
		Module: module, Package: "helm.sh/helm/v4/cmd/helm", Output: program,
		Flags: []string{"-mod=readonly", "-ldflags", "-s -w"},
	}
	if err := build.Run(ctx, progress, "helm"); err != nil {
		return "", err
	}
	fmt.Fprintf(progress, "helm built in %s\n", time.Since(began).Round(time.Second))
	return program, nil
}

func built(program string) bool {
	info, err := os.Stat(program)
	return err == nil && info.Mode()&0o111 != 0
}

// Template renders the chart for a release "isthmus" in namespace, with values
// given as YAML over the chart's own, and without the definitions.
func Template(ctx context.Context, progress io.Writer, namespace, values string) ([]byte, error) {
	return run(ctx, progress, values, "template", "isthmus", "", "--namespace", namespace, "--values", "-")
}

// Lint is `helm lint --strict`.
func Lint(ctx context.Context, progress io.Writer, values string) error {
	_, err := run(ctx, progress, values, "lint", "", "--strict", "--values", "-")
	return err
}

// run replaces an empty argument by the chart's directory.
func run(ctx context.Context, progress io.Writer, stdin string, args ...string) ([]byte, error) {
	program, err := EnsureBuilt(ctx, progress)
	if err != nil {
		return nil, err
	}
	root, err := checkout.Root()
	if err != nil {
		return nil, err
	}
	for i := range args {
		if args[i] == "" {
			args[i] = filepath.Join(root, "charts", "isthmus")
		}
	}
	home, err := os.MkdirTemp("", "isthmus-helm-")
	if err != nil {
		return nil, fmt.Errorf("make a home for helm: %w", err)
	}
	defer func() { _ = os.RemoveAll(home) }()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin"} // a person's own plugins and settings stay out
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return nil, errors.Join(fmt.Errorf("helm %s: %w\n%s", args[0], err, bytes.TrimSpace(complaint.Bytes())), ctx.Err())
	}
	return out.Bytes(), nil
}
