package slurm

import (
	"errors"
	"strings"
	"testing"
)

// TestNoWayToInstall is what callers tell a machine without Slurm by.
func TestNoWayToInstall(t *testing.T) {
	t.Setenv("PATH", "") // no apt-get
	s := software{programs: []string{"no-such-program"}, packages: []string{"its-package"}}
	var said strings.Builder
	var missing *MissingError
	if err := s.ensure(t.Context(), &said); !errors.As(err, &missing) || missing.Programs[0] != "no-such-program" || !strings.Contains(err.Error(), "its-package") {
		t.Errorf("got %v", err)
	}
	if said.Len() > 0 {
		t.Errorf("it said %q", said.String())
	}
}
