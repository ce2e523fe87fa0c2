package image_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/image"
)

// Each image that the chart names holds its programs, for all to run, and runs as the
// chart's user.
func TestPrograms(t *testing.T) {
	from := t.TempDir()
	for _, name := range []string{"vnode", "podrun", "scheduler", "controllers"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte("program "+name), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	made, err := image.Programs{Directory: from, Registry: "isthmus", Tag: "1.2"}.Write(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 3 {
		t.Fatalf("images %v", made)
	}
	for name, programs := range map[string][]string{"scheduler": {"scheduler"}, "controllers": {"controllers"}, "vnode": {"vnode", "podrun"}} {
		raw, err := os.ReadFile(made[name])
		if err != nil {
			t.Fatal(err)
		}
		files := untar(t, raw)
		var index, manifest struct {
			Manifests, Layers []struct {
				Digest      string
				Annotations map[string]string
			}
			Config struct{ Digest string }
		}
		decode(t, files["index.json"], &index)
		if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != "docker.io/isthmus/"+name+":1.2" {
			t.Errorf("%s is called %q", name, got)
		}
		decode(t, blob(t, files, index.Manifests[0].Digest), &manifest)
		var config struct {
			Config struct {
				User       string
				Entrypoint []string
			}
		}
		decode(t, blob(t, files, manifest.Config.Digest), &config)
		if config.Config.User != "65532:65532" || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/usr/bin/"+name {
			t.Errorf("%s runs as %+v", name, config.Config)
		}
		root := untar(t, blob(t, files, manifest.Layers[0].Digest))
		for _, p := range programs {
			if string(root["usr/bin/"+p]) != "program "+p {
				t.Errorf("image %s lacks %s", name, p)
			}
		}
		if !strings.Contains(string(root["etc/ssl/certs/ca-certificates.crt"]), "BEGIN CERTIFICATE") || !strings.Contains(string(root["etc/passwd"]), ":65532:") {
			t.Errorf("image %s knows no authority or no user", name)
		}
	}
	for _, p := range []image.Programs{{Directory: from, Registry: "a"}, {Directory: from, Tag: "1"}, {Directory: filepath.Join(from, "none"), Registry: "a", Tag: "1"}} {
		if _, err := p.Write(t.TempDir()); err == nil {
			t.Errorf("%+v is written", p)
		}
	}
}
