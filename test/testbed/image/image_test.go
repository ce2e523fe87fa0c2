package image_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/image"
)

// An archive of two images has one layer, in which a program lies with its
// libraries, and names everything by its digest.
func TestWriteArchive(t *testing.T) {
	tree := image.NewTree()
	if err := tree.CopyPrograms(t.Context(), "sh"); err != nil {
		t.Fatal(err)
	}
	tree.Write("/etc/motd", 0o644, []byte("hello\n"))
	file := filepath.Join(t.TempDir(), "images.tar")
	if err := image.WriteArchive(file,
		image.Image{Name: "example.test/one:1", Tree: tree, Entrypoint: []string{"/bin/sh"}},
		image.Image{Name: "example.test/two:2", Tree: tree, User: "1000:1000"},
	); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, raw)
	type descriptor struct {
		Digest      string
		Annotations map[string]string
	}
	var index struct{ Manifests []descriptor }
	decode(t, files["index.json"], &index)
	if len(index.Manifests) != 2 {
		t.Fatalf("%d images", len(index.Manifests))
	}
	var layers []string
	for i, want := range []string{"example.test/one:1", "example.test/two:2"} {
		if got := index.Manifests[i].Annotations["io.containerd.image.name"]; got != want {
			t.Errorf("image %d is called %q, want %q", i, got, want)
		}
		var manifest struct{ Layers []descriptor }
		decode(t, blob(t, files, index.Manifests[i].Digest), &manifest)
		for _, l := range manifest.Layers {
			layers = append(layers, l.Digest)
		}
	}
	if len(layers) != 2 || layers[0] != layers[1] {
		t.Fatalf("layers %v, want the same one twice", layers)
	}
	root := untar(t, blob(t, files, layers[0]))
	if string(root["etc/motd"]) != "hello\n" || len(root["usr/bin/sh"]) == 0 {
		t.Errorf("the layer lacks what was put in")
	}
	libc := false
	for name := range root {
		libc = libc || strings.HasPrefix(filepath.Base(name), "libc.")
	}
	if !libc {
		t.Errorf("the layer lacks the shell's library")
	}
}

func blob(t *testing.T, files map[string][]byte, digest string) []byte {
	t.Helper()
	name := strings.TrimPrefix(digest, "sha256:")
	content, ok := files["blobs/sha256/"+name]
	if sum := sha256.Sum256(content); !ok || hex.EncodeToString(sum[:]) != name {
		t.Fatalf("no content with digest %s", digest)
	}
	return content
}

func decode(t *testing.T, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
}

func untar(t *testing.T, raw []byte) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	in := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
}
