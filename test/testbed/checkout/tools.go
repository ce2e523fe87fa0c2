package checkout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Tools are programs of other projects, built from a module of ours that holds
// nothing but their pins.
type Tools struct {
	// Name and Version are for people and for the directory in the cache.
	Name, Version string
	// Module is the directory of the module in the checkout.
	Module string
	// Programs are the packages by the names of their programs.
	Programs map[string]string
	// Expect says how long the build may take, for people.
	Expect string
}

// EnsureBuilt builds what is missing, or all when the pins changed, and returns the
// directory with the programs. It takes a few milliseconds once they are there.
// Several programs may call it at once: one builds, the others wait.
func (t Tools) EnsureBuilt(ctx context.Context, progress io.Writer) (dir string, err error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, t.Module)
	var pins []byte
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("read the pins of %s: %w", t.Name, err)
		}
		pins = append(pins, raw...)
	}
	sum := sha256.Sum256(pins)
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	// The pins are part of the name: programs of two pins never pass for one.
	dir = filepath.Join(cache, t.Name+"-"+t.Version+"-"+hex.EncodeToString(sum[:6]))
	if t.built(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory for %s: %w", t.Name, err)
	}
	unlock, err := Lock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if t.built(dir) { // another program built it while we waited
		return dir, nil
	}
	fmt.Fprintf(progress, "building %s %s into %s\n  this happens once; expect %s on two cores\n", t.Name, t.Version, dir, t.Expect)
	began := time.Now()
	for name, pkg := range t.Programs {
		build := GoBuild{Module: module, Package: pkg, Output: filepath.Join(dir, name), Flags: []string{"-mod=readonly", "-ldflags", "-s -w"}}
		if err := build.Run(ctx, progress, name); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(progress, "%s built in %s\n", t.Name, time.Since(began).Round(time.Second))
	return dir, nil
}

func (t Tools) built(dir string) bool {
	for name := range t.Programs {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}
