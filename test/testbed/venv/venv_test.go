package venv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file with a version left open is refused before anything is installed.
func TestExact(t *testing.T) {
	for text, want := range map[string]string{
		"# a comment\n\nsix==1.16.0\nray[default]==2.60.0\n": "",
		"six\n":              `"six"`,
		"six>=1.16.0\n":      `"six>=1.16.0"`,
		"ok==1\nsix ==\n":    `"six =="`,
		"--index-url there ": "--index-url",
	} {
		err := exact([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	file := filepath.Join(t.TempDir(), "open.txt")
	if err := os.WriteFile(file, []byte("six\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), t.Output(), "none", file); err == nil || !strings.Contains(err.Error(), "NAME==VERSION") {
		t.Errorf("Ensure says %v", err)
	}
}

// All requirements of the checkout are exact.
func TestRequirements(t *testing.T) {
	files, err := filepath.Glob("../../frameworks/requirements/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err == nil {
			err = exact(raw)
		}
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}
