package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRemove(t *testing.T) {
	dir := staged(t, "k1", "k2")
	locked := filepath.Join(dir, "g/k1/pods/0/volumes/v")
	put(t, filepath.Join(locked, "f"), "x")
	outside := filepath.Join(t.TempDir(), "precious")
	put(t, outside, "x")
	if err := errors.Join(os.Symlink(filepath.Dir(outside), filepath.Join(dir, "g/k1/link")), os.Chmod(locked, 0o500)); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(dir, "g", ".trash-old")
	put(t, filepath.Join(old, "f"), "x")
	put(t, filepath.Join(dir, "g", ".stage-k2-new", "f"), "x")
	put(t, filepath.Join(dir, "g", ".stage-k1-killed", "f"), "x") // whoever staged it again, or gave up, is done with it
	put(t, filepath.Join(dir, "g", ".trash-k1-killed", "f"), "x")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*litterAge)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir, "k1"); err != nil {
			t.Fatal(err)
		}
	}
	names, err := os.ReadDir(filepath.Join(dir, "g"))
	if err != nil || len(names) != 2 || names[0].Name() != ".stage-k2-new" || names[1].Name() != "k2" {
		t.Errorf("left: %v, %v", names, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a file outside: %v", err)
	}
	if err := Remove(filepath.Join(t.TempDir(), "missing"), "k1"); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}

func TestRemoveMany(t *testing.T) {
	dir := staged(t, "k1", "k2", "k3")
	remove := func(dir, in string) (string, error) {
		var out strings.Builder
		err := RemoveMany(dir, strings.NewReader(in), &out)
		return out.String(), err
	}
	got, err := remove(dir, `{"key":"k1"}`+"\n"+`{"key":"../k2"}`+"\n"+`{"key":"k3"}`+"\n"+`{"key":"k9"}`+"\n")
	want := `{"key":"k1","code":0}` + "\n" + `{"key":"../k2","code":3,"error":"key \"../k2\": invalid input"}` + "\n" +
		`{"key":"k3","code":0}` + "\n" + `{"key":"k9","code":0}` + "\n"
	if err != nil || got != want {
		t.Errorf("answers %v:\n%swant:\n%s", err, got, want)
	}
	names, err := os.ReadDir(filepath.Join(dir, "g"))
	if err != nil || len(names) != 1 || names[0].Name() != "k2" {
		t.Errorf("left: %v, %v", names, err)
	}
	if got, err := remove(dir, `{"key":"k2"}`+"\n{"); Code(err) != ExitInvalid || got != `{"key":"k2","code":0}`+"\n" {
		t.Errorf("broken input: %v, answers %q", err, got)
	}
	if got, err := remove(filepath.Join(t.TempDir(), "missing"), `{"key":"k1"}`); err != nil || got != `{"key":"k1","code":0}`+"\n" {
		t.Errorf("of nothing: %v, answers %q", err, got)
	}
	if _, err := remove(dir, strings.Repeat(`{"key":"k1"}`+"\n", maxGangs+1)); Code(err) != ExitInvalid {
		t.Errorf("too many keys: %v", err)
	}
}
