package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// Version is the Kubernetes release that the pins in test/testbed/kubernetes give.
const Version = "v1.37.2"

const linkFlags = "-s -w -X k8s.io/component-base/version.gitVersion=" + Version +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// program is one program of the control plane.
type program struct{ name, pkg string }

func programs() []program {
	return []program{
		{"etcd", "go.etcd.io/etcd/server/v3"},
		{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
		{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
		{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
	}
}

// AssetsDir is where EnsureBuilt puts the programs; it is what KUBEBUILDER_ASSETS
// wants to be.
func AssetsDir() (string, error) {
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "kubernetes-"+Version), nil
}

// EnsureBuilt builds etcd, kube-apiserver, kube-controller-manager and kubectl
// from the pinned module when they are missing or the pins changed, and returns
// their directory. It tells progress what it does and for how long. Fresh
// programs cost a few milliseconds. Several programs may call it at once: one
// builds, the others wait.
func EnsureBuilt(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := AssetsDir()
	if err != nil {
		return "", err
	}
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	module := filepath.Join(root, "test", "testbed", "kubernetes")
	want, err := pins(module)
	if err != nil {
		return "", err
	}
	if fresh(dir, want) {
		return dir, nil
	}
	unlock, err := checkout.Lock(ctx, dir+".lock", progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if fresh(dir, want) { // another program built them while we waited
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make assets directory: %w", err)
	}
	// The old stamp goes first: programs of two releases never pass for one.
	if err := os.Remove(stampFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove stamp: %w", err)
	}
	start := time.Now()
	all := programs()
	fmt.Fprintf(progress, "building the Kubernetes %s control plane into %s\n", Version, dir)
	fmt.Fprintln(progress, "  this happens once; expect about 7 minutes on two cores, much less when Go's build cache knows it")
	for i, p := range all {
		label := fmt.Sprintf("[%d/%d] %s", i+1, len(all), p.name)
		fmt.Fprintf(progress, "  %s: building\n", label)
		began := time.Now()
		build := checkout.GoBuild{
			Module: module, Package: p.pkg, Output: filepath.Join(dir, p.name),
			Flags: []string{"-mod=readonly", "-ldflags", linkFlags},
		}
		if err := build.Run(ctx, progress, label); err != nil {
			return "", err
		}
		fmt.Fprintf(progress, "  %s: done in %s\n", label, time.Since(began).Round(100*time.Millisecond))
	}
	if err := os.WriteFile(stampFile(dir), []byte(want+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write stamp: %w", err)
	}
	fmt.Fprintf(progress, "control plane built in %s\n", time.Since(start).Round(time.Second))
	return dir, nil
}

func stampFile(dir string) string { return filepath.Join(dir, "pins") }

// pins names what the programs are built from: versions, their sums, flags.
func pins(module string) (string, error) {
	h := sha256.New()
	for _, name := range []string{"go.mod", "go.sum"} {
		raw, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("read the control plane's pins: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", name, len(raw))
		_, _ = h.Write(raw) // a hash takes everything
	}
	fmt.Fprintln(h, linkFlags)
	return hex.EncodeToString(h.Sum(nil)), nil
}

func fresh(dir, want string) bool {
	raw, err := os.ReadFile(stampFile(dir))
	if err != nil || string(raw) != want+"\n" {
		return false
	}
	for _, p := range programs() {
		if info, err := os.Stat(filepath.Join(dir, p.name)); err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}
