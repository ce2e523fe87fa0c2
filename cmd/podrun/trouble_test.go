package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// On a node that lets users make no namespaces, the runner finds out by itself.
func TestNamespacesForbidden(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("no unshare(1) to forbid namespaces with")
	}
	b := newBench(t)
	m := one(sh("main", `echo "$MASTER_ADDR"`))
	m.env = map[string][]manifest.EnvVar{"main": {{Name: "MASTER_ADDR", Value: []byte("m-0-host")}}}
	b.stage(m)
	// Inside a user namespace of its own, a user may set the limit for those within.
	probe := b.command()
	probe.Path, probe.Args = unshare, []string{unshare, "-Ur", "/bin/sh", "-c", `echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" pod --rank=0 --host=localhost . 2>err`, podrunPath}
	probe.Dir = b.dir()
	if out, err := probe.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b.final(0, manifest.PhaseSucceeded)
	if got := strings.TrimSpace(b.logs(0, "main")); strings.Contains(got, "host") || got == "" {
		t.Errorf("MASTER_ADDR = %q, want an address", got)
	}
	if said, err := os.ReadFile(filepath.Join(b.dir(), "err")); err != nil || !strings.Contains(string(said), "no user namespaces on this node") {
		t.Errorf("said %q, %v", said, err)
	}
}

// A pod that fills the disk which its status is on still reports its end.
func TestDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: a small filesystem cannot be mounted")
	}
	b := newBench(t)
	if err := os.Mkdir(b.root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", b.root, "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(b.root, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chown(b.root, b.who.uid, b.who.gid); err != nil {
		t.Fatal(err)
	}
	b.stage(one(sh("main", "echo before; head -c 100000000 /dev/zero > "+b.root+"/big; echo after; sleep 2.2; exit 3")))
	if code := b.pod(); code != 1 {
		t.Errorf("pod exited %d, want 1", code)
	}
	if s := b.final(0, manifest.PhaseFailed); exitCode(s, 0) != 3 {
		t.Errorf("status %+v", s)
	}
	if st, err := os.Stat(filepath.Join(b.root, "big")); err != nil || st.Size() < 10<<20 {
		t.Errorf("the disk was not filled: %v, %v", st, err)
	}
	if log := b.logs(0, "main"); !strings.HasPrefix(log, "before\n") {
		t.Errorf("log %q", log)
	}
}
