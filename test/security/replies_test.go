package security_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// S8, measured by a program of its own: the race detector would be measured, too.
func TestHostileReplies(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: not root: a real sshd logs in as other users")
	}
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "replies")
	build := checkout.GoBuild{Module: root, Package: "./test/perf/replies", Output: program}
	if err := build.Run(t.Context(), t.Output(), "building replies"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}
