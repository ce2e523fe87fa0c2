package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestImages: the images have the tag that the chart names, and their files are told.
func TestImages(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "images")
	for _, name := range []string{"vnode", "podrun", "scheduler", "controllers"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte(name), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"images", to, "--programs", from})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	version, err := appVersion()
	if err != nil || version == "" {
		t.Fatalf("the chart's version is %q, %v", version, err)
	}
	files := strings.Fields(out.String())
	if len(files) != 3 {
		t.Fatalf("it prints %q", out.String())
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		name := strings.TrimSuffix(filepath.Base(file), ".tar")
		if err != nil || !bytes.Contains(raw, []byte("docker.io/isthmus/"+name+":"+version)) {
			t.Errorf("%s: %v, or another name", file, err)
		}
	}
}
