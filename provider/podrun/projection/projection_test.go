package projection_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/projection"
)

func set(files ...string) projection.Set {
	s := projection.Set{Files: map[string]projection.File{}}
	for i := 0; i < len(files); i += 2 {
		s.Files[files[i]] = projection.File{Data: []byte(files[i+1]), Mode: 0o644}
	}
	return s
}

func write(t *testing.T, root *os.Root, s projection.Set, want bool) {
	t.Helper()
	changed, err := projection.Write(root, "v", s)
	if err != nil {
		t.Fatal(err)
	}
	if changed != want {
		t.Errorf("changed %v, want %v", changed, want)
	}
}

// show lists what a reader sees.
func show(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		full := filepath.Join(dir, e.Name())
		st, err := os.Stat(full)
		if err != nil {
			t.Fatalf("a link leads nowhere: %v", err)
		}
		if st.IsDir() {
			inner, err := os.ReadDir(full)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range inner {
				out = append(out, e.Name()+"/"+i.Name()+"="+read(t, filepath.Join(full, i.Name())))
			}
			continue
		}
		out = append(out, fmt.Sprintf("%s=%s:%o", e.Name(), read(t, full), st.Mode().Perm()))
	}
	return strings.Join(out, " ")
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWrite(t *testing.T) {
	top := t.TempDir()
	root, err := os.OpenRoot(top)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	dir := filepath.Join(top, "v")
	check := func(want string) {
		t.Helper()
		if got := show(t, dir); got != want {
			t.Errorf("shows %q, want %q", got, want)
		}
	}
	write(t, root, set("a", "1", "d/x", "2"), true)
	check("a=1:644 d/x=2")
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	write(t, root, set("a", "1", "d/x", "2"), false)
	if after, _ := os.Readlink(filepath.Join(dir, "..data")); after != before {
		t.Error("an equal set made a new version")
	}
	write(t, root, set("a", "2", "d/y", "3", "later", "4"), true)
	check("a=2:644 d/y=3 later=4:644")
	write(t, root, set("d", "now a file"), true)
	check("d=now a file:644")
	mode := set("d", "now a file")
	mode.Files["d"] = projection.File{Data: []byte("now a file"), Mode: 0o400}
	write(t, root, mode, true)
	check("d=now a file:400")
	write(t, root, set(), true)
	check("")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 { // ..data and its version
		t.Errorf("left: %v, %v", entries, err)
	}
	for _, bad := range []string{"", "..", "../x", "a/../b", "/x", "..data", "a/..b", "./a", "a\x00"} {
		if _, err := projection.Write(root, "v", set(bad, "x")); err == nil {
			t.Errorf("%q was written", bad)
		}
	}
}

// Whatever a crash or a hostile hand left, the next write mends it and touches
// nothing outside.
func TestMends(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"no link":              func(dir string) error { return os.Remove(dir + "/..data") },
		"half a swap":          func(dir string) error { return os.Symlink("..v-nothing", dir+"/..data_tmp") },
		"link into nothing":    func(dir string) error { return relink(dir, "..v-nothing") },
		"link out":             func(dir string) error { return relink(dir, "../../outside") },
		"name is a link out":   func(dir string) error { _ = os.Remove(dir + "/a"); return os.Symlink("../../outside/file", dir+"/a") },
		"name is a directory":  func(dir string) error { _ = os.Remove(dir + "/a"); return os.MkdirAll(dir+"/a/b", 0o755) },
		"contents changed":     func(dir string) error { return os.WriteFile(dir+"/..data/a", []byte("?"), 0o644) },
		"foreign file beside":  func(dir string) error { return os.WriteFile(dir+"/foreign", nil, 0o644) },
		"foreign in a version": func(dir string) error { return os.WriteFile(dir+"/..data/foreign", nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			if err := os.MkdirAll(top+"/root", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(top+"/outside", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(top+"/outside/file", []byte("foreign"), 0o644); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(top + "/root")
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			write(t, root, set("a", "1"), true)
			if err := spoil(top + "/root/v"); err != nil {
				t.Fatal(err)
			}
			if _, err := projection.Write(root, "v", set("a", "2")); err != nil {
				t.Fatal(err)
			}
			if got := show(t, top+"/root/v"); got != "a=2:644" {
				t.Errorf("shows %q", got)
			}
			if got := read(t, top+"/outside/file"); got != "foreign" {
				t.Errorf("outside was touched: %q", got)
			}
		})
	}
}

func relink(dir, to string) error {
	if err := os.Remove(dir + "/..data"); err != nil {
		return err
	}
	return os.Symlink(to, dir+"/..data")
}
