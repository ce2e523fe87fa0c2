package debian

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
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

// TestNoWayToInstall is what callers tell a machine by that lacks something.
func TestNoWayToInstall(t *testing.T) {
	t.Setenv("PATH", "") // no apt-get
	s := Software{Programs: []string{"no-such-program"}, Packages: []string{"its-package"}}
	var said strings.Builder
	var missing *MissingError
	if err := s.Ensure(t.Context(), &said); !errors.As(err, &missing) || missing.Programs[0] != "no-such-program" || !strings.Contains(err.Error(), "its-package") {
		t.Errorf("got %v", err)
	}
	if said.Len() > 0 {
		t.Errorf("it said %q", said.String())
	}
}
