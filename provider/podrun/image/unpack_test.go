package image

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

type entry struct {
	name, link, data string
	kind             byte
	mode             int64
}

func layer(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		if e.mode == 0 {
			e.mode = 0o644
		}
		if err := w.WriteHeader(&tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree lists what is in a directory: mode, name, content or link.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			out[rel] = st.Mode().String()
		case st.Mode()&fs.ModeSymlink != 0:
			text, err := os.Readlink(p)
			out[rel] = "-> " + text
			return err
		default:
			data, err := os.ReadFile(p)
			out[rel] = st.Mode().String() + " " + string(data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnpack(t *testing.T) {
	dirEntry := func(name string, mode int64) entry { return entry{name: name, kind: tar.TypeDir, mode: mode} }
	link := func(name, to string) entry { return entry{name: name, link: to, kind: tar.TypeSymlink} }
	for name, tc := range map[string]struct {
		layers [][]entry
		want   map[string]string
	}{
		"modes of an unprivileged user": {[][]entry{{dirEntry("d/", 0o555), {name: "d/secret", mode: 0o004}, {name: "suid", mode: 0o6755}, dirEntry("tmp", 0o1777), {name: "null", kind: tar.TypeChar}}},
			map[string]string{"d": "drwxr-xr-x", "d/secret": "-rw----r-- ", "suid": "-rwxr-xr-x ", "tmp": "dtrwxrwxrwx"}},
		"whiteouts": {[][]entry{{{name: "a/x", data: "1"}, {name: "a/y", data: "1"}, {name: "b/z/q", data: "1"}}, {{name: "a/.wh.x"}, {name: "b/.wh..wh..opq"}, {name: "b/new", data: "2"}}},
			map[string]string{"a": "drwxr-xr-x", "a/y": "-rw-r--r-- 1", "b": "drwxr-xr-x", "b/new": "-rw-r--r-- 2"}},
		"opaque comes last": {[][]entry{{{name: "b/old", data: "1"}}, {{name: "b/new", data: "2"}, {name: "b/.wh..wh..opq"}}},
			map[string]string{"b": "drwxr-xr-x", "b/new": "-rw-r--r-- 2"}},
		"through an absolute link": {[][]entry{{dirEntry("run", 0o755), dirEntry("var", 0o755), link("var/run", "/run")}, {{name: "var/run/pid", data: "1"}}},
			map[string]string{"run": "drwxr-xr-x", "var": "drwxr-xr-x", "var/run": "-> /run", "run/pid": "-rw-r--r-- 1"}},
		"hard links": {[][]entry{{{name: "a", data: "1"}, {name: "b", link: "/a", kind: tar.TypeLink}}, {{name: "c", link: "a", kind: tar.TypeLink}}},
			map[string]string{"a": "-rw-r--r-- 1", "b": "-rw-r--r-- 1", "c": "-rw-r--r-- 1"}},
		"replaced kinds": {[][]entry{{dirEntry("d", 0o755), {name: "d/f"}, {name: "f", data: "1"}, link("l", "f")}, {{name: "d", data: "file"}, dirEntry("f", 0o755), {name: "l", data: "own"}}},
			map[string]string{"d": "-rw-r--r-- file", "f": "drwxr-xr-x", "l": "-rw-r--r-- own"}},
		"out of the root": {[][]entry{{{name: "../../x", data: "1"}, link("up", "../../../.."), {name: "up/y", data: "2"}, {name: "/abs", data: "3"}}},
			map[string]string{"x": "-rw-r--r-- 1", "up": "-> ../../../..", "y": "-rw-r--r-- 2", "abs": "-rw-r--r-- 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "in", "rootfs")
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for _, l := range tc.layers {
				if err := unpack(root, bytes.NewReader(layer(t, l...))); err != nil {
					t.Fatal(err)
				}
			}
			got := tree(t, dir)
			for k, v := range tc.want {
				if got[k] != v {
					t.Errorf("%s: %q, want %q", k, got[k], v)
				}
			}
			if len(got) != len(tc.want) {
				t.Errorf("got %v", got)
			}
			if all := tree(t, top); len(all) != len(got)+2 {
				t.Errorf("outside: %v", all)
			}
		})
	}
}

// Another process of the user swaps directories for links while layers are
// unpacked; nothing outside is touched.
func TestUnpackSwaps(t *testing.T) {
	top := t.TempDir()
	dir, outside := filepath.Join(top, "rootfs"), filepath.Join(top, "outside")
	for _, d := range []string{filepath.Join(dir, "d"), outside} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("as it was"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-quit:
				return
			default:
			}
			_ = os.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "kept")) // the race is the point
			_ = os.Symlink(outside, filepath.Join(dir, "d"))
			_ = os.Remove(filepath.Join(dir, "d"))
			_ = os.Rename(filepath.Join(dir, "kept"), filepath.Join(dir, "d"))
		}
	})
	data := layer(t, entry{name: "d/precious", data: "overwritten"}, entry{name: "d/.wh.precious"}, entry{name: "d/new", data: "x"}, entry{name: "d/.wh..wh..opq"})
	for range 10_000 {
		_ = unpack(root, bytes.NewReader(data)) // it may fail; what it must not do is checked below
	}
	close(quit)
	wg.Wait()
	t.Log("S9: 10000 layers unpacked while a folder in them is swapped for a link")
	if got := tree(t, outside); len(got) != 1 || got["precious"] != "-rw------- as it was" {
		t.Errorf("outside: %v", got)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add("a/b", "../x", []byte("x"), byte(tar.TypeReg), byte(tar.TypeSymlink))
	f.Add("../../etc", "/etc/passwd", []byte("x"), byte(tar.TypeLink), byte(tar.TypeDir))
	f.Add(".wh..wh..opq", ".wh..", []byte("x"), byte(tar.TypeReg), byte(tar.TypeReg))
	f.Add("l/../..", "l", []byte("x"), byte(tar.TypeSymlink), byte(tar.TypeReg))
	f.Fuzz(func(t *testing.T, a, b string, data []byte, k1, k2 byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "x", "rootfs")
		if err := os.MkdirAll(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, "precious"), []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range []tar.Header{{Name: a, Linkname: b, Typeflag: k1, Mode: 0o777}, {Name: a + "/" + b, Linkname: a, Typeflag: k2, Mode: 0o755},
			{Name: b, Linkname: "../../precious", Typeflag: tar.TypeLink}, {Name: a + "/precious", Typeflag: tar.TypeReg, Size: int64(len(data))}} {
			if w.WriteHeader(&h) == nil && h.Size > 0 {
				_, _ = w.Write(data) // an archive that is cut short is a good one, too
			}
		}
		_ = w.Flush()
		_ = unpack(root, &buf)
		_ = unpack(root, bytes.NewReader(data))
		if got, err := os.ReadFile(filepath.Join(top, "precious")); err != nil || string(got) != "as it was" {
			t.Fatalf("outside: %q, %v", got, err)
		}
		names, err := os.ReadDir(top)
		if err != nil || len(names) != 2 {
			t.Fatalf("outside: %v, %v", names, err)
		}
		if names, err = os.ReadDir(filepath.Join(top, "x")); err != nil || len(names) != 1 {
			t.Fatalf("outside: %v, %v", names, err)
		}
	})
}

func TestLinksHaveAnEnd(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	data := layer(t, entry{name: "a", link: "b", kind: tar.TypeSymlink}, entry{name: "b", link: "a", kind: tar.TypeSymlink}, entry{name: "a/x"})
	if err := unpack(root, bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Errorf("error %v", err)
	}
}
