//go:build upgrade

package upgrade_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// errNoHistory says that the checkout does not have the commit.
var errNoHistory = errors.New("this checkout lacks the history")

var commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)

// pinned is the commit of the previous version.
func pinned() (string, error) {
	raw, err := os.ReadFile("PREVIOUS")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !commitPattern.MatchString(line) {
			return "", fmt.Errorf("PREVIOUS: %q is not a commit of 40 digits", line)
		}
		return line, nil
	}
	return "", errors.New("PREVIOUS names no commit")
}

// buildPrevious gets the previous version out of the history and builds it, once a
// commit: about half a minute, and less where Go has built most of it before.
func buildPrevious(ctx context.Context, progress io.Writer) (environment.Version, error) {
	var none environment.Version
	commit, err := pinned()
	if err != nil {
		return none, err
	}
	root, err := checkout.Root()
	if err != nil {
		return none, err
	}
	if out, err := exec.CommandContext(ctx, "git", "-C", root, "cat-file", "-e", commit+"^{commit}").CombinedOutput(); err != nil {
		return none, fmt.Errorf("%w: it has no commit %s, the previous version by test/upgrade/PREVIOUS (git: %s); `git fetch --depth=1 origin %s` gets it",
			errNoHistory, commit, bytes.TrimSpace(out), commit)
	}
	cache, err := checkout.CacheDir()
	if err != nil {
		return none, err
	}
	dir := filepath.Join(cache, "previous-"+commit[:12])
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as the cache's others: nothing of it is secret
		return none, err
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return none, err
	}
	defer unlock()
	v := environment.Version{Checkout: filepath.Join(dir, "source"), Programs: dir}
	if err := export(ctx, root, commit, v.Checkout); err != nil {
		return none, err
	}
	for _, name := range append([]string{"podrun"}, environment.Programs()...) {
		build := checkout.GoBuild{Module: v.Checkout, Package: "./cmd/" + name, Output: filepath.Join(dir, name)}
		if err := build.Run(ctx, progress, "building the previous "+name); err != nil {
			return none, err
		}
	}
	return v, nil
}

// export writes the files of a commit into dir, whole or not at all.
func export(ctx context.Context, root, commit, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil { //nolint:gosec // source that anybody may read
		return err
	}
	archive := exec.CommandContext(ctx, "git", "-C", root, "archive", "--format=tar", commit)
	unpack := exec.CommandContext(ctx, "tar", "-x", "-C", part)
	var complaints bytes.Buffer
	archive.Stderr, unpack.Stderr = &complaints, &complaints
	var err error
	if unpack.Stdin, err = archive.StdoutPipe(); err != nil {
		return err
	}
	if err := unpack.Start(); err != nil {
		return err
	}
	if err := errors.Join(archive.Run(), unpack.Wait()); err != nil {
		return fmt.Errorf("get %s out of the history: %w: %s", commit, err, complaints.String())
	}
	return os.Rename(part, dir)
}
