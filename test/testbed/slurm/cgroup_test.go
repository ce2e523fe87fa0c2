package slurm

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// Where the group at the top hands no controllers on, nothing is left behind, and what
// was there stays. (A directory in place of the file stands for the kernel's refusal.)
func TestRefusedControllers(t *testing.T) {
	for name, before := range map[string]bool{"a new group": false, "one that was there": true} {
		h := hierarchy{2, t.TempDir()}
		slice := filepath.Join(h.top, "system.slice")
		dirs := []string{filepath.Join(h.top, "cgroup.subtree_control")}
		if before {
			dirs = append(dirs, slice)
		}
		for _, dir := range dirs {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.prepare(); err == nil {
			t.Errorf("%s: the refusal is not told", name)
		}
		if _, err := os.Stat(slice); before != !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: afterwards %v", name, err)
		}
	}
}
