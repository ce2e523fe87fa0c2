package debian

import (
	"os"
	"path/filepath"
	"testing"
)

// What is given by its path need not be a program.
func TestMissing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "library")
	s := Software{Programs: []string{file, "sh", "no-such-program"}}
	if got := s.Missing(); len(got) != 2 || got[0] != file || got[1] != "no-such-program" {
		t.Errorf("missing %q", got)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := s.Missing(); len(got) != 1 || got[0] != "no-such-program" {
		t.Errorf("missing %q", got)
	}
}
