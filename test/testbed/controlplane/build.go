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

// program is one program that is built from the pinned module.
type program struct{ name, pkg string }

// set is what is built together and has one stamp.
type set struct {
	what     string
	stamp    string // file name
	expect   string // how long a cold build takes
	programs []program
}

func plane() set {
	return set{"control plane", "pins", "about 7 minutes", []program{
		{"etcd", "go.etcd.io/etcd/server/v3"},
		{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
		{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
		{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
	}}
}

// node is apart, since only tests that compare with a real kubelet need it.
func node() set {
	return set{"kubelet", "pins-kubelet", "half a minute after the control plane", []program{
		{"kubelet", "k8s.io/kubernetes/cmd/kubelet"},
	}}
}

// place finds the pinned module, the directory of the programs that are built
// from it, and what their stamps must say. The directory is what KUBEBUILDER_ASSETS wants
// to be; it is named after the pins, so that checkouts of two releases do not build over
// each other.
func place() (module, dir, want string, err error) {
	cache, err := checkout.CacheDir()
	if err != nil {
		return "", "", "", err
	}
	root, err := checkout.Root()
	if err != nil {
		return "", "", "", err
	}
	module = filepath.Join(root, "test", "testbed", "kubernetes")
	if want, err = pins(module); err != nil {
		return "", "", "", err
	}
	return module, filepath.Join(cache, "kubernetes-"+Version+"-"+want[:8]), want, nil
}

// EnsureBuilt builds etcd, kube-apiserver, kube-controller-manager and kubectl
// from the pinned module when they are missing or the pins changed, and returns
// their directory. It tells progress what it does and for how long. Fresh
// programs cost a few milliseconds. Several programs may call it at once: one
// builds, the others wait.
func EnsureBuilt(ctx context.Context, progress io.Writer) (string, error) {
	return plane().ensure(ctx, progress)
}

// EnsureKubelet does the same for the kubelet and returns its path.
func EnsureKubelet(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := node().ensure(ctx, progress)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "kubelet"), nil
}

func (s set) ensure(ctx context.Context, progress io.Writer) (string, error) {
	module, dir, want, err := place()
	if err != nil {
		return "", err
	}
	if s.fresh(dir, want) {
		return dir, nil
	}
	unlock, err := checkout.Lock(ctx, dir+".lock", progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if s.fresh(dir, want) { // another program built them while we waited
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make assets directory: %w", err)
	}
	// The old stamp goes first: half a build never passes for a whole one.
	if err := os.Remove(filepath.Join(dir, s.stamp)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("remove stamp: %w", err)
	}
	start := time.Now()
	fmt.Fprintf(progress, "building the Kubernetes %s %s into %s\n", Version, s.what, dir)
	fmt.Fprintf(progress, "  this happens once; expect %s on two cores, much less when Go's build cache knows it\n", s.expect)
	for i, p := range s.programs {
		label := fmt.Sprintf("[%d/%d] %s", i+1, len(s.programs), p.name)
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
	if err := os.WriteFile(filepath.Join(dir, s.stamp), []byte(want+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write stamp: %w", err)
	}
	fmt.Fprintf(progress, "%s built in %s\n", s.what, time.Since(start).Round(time.Second))
	return dir, nil
}

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

func (s set) fresh(dir, want string) bool {
	raw, err := os.ReadFile(filepath.Join(dir, s.stamp))
	if err != nil || string(raw) != want+"\n" {
		return false
	}
	for _, p := range s.programs {
		if info, err := os.Stat(filepath.Join(dir, p.name)); err != nil || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}
