package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
)

func small(t *testing.T, text string) v1.Image {
	return imagetest.Image(t, v1.Config{Entrypoint: []string{"/run"}, Cmd: []string{"a", "b"}, Env: []string{"A=1"}, WorkingDir: "/w", User: "7", StopSignal: "SIGQUIT"},
		imagetest.Layer(t, imagetest.Dir("d", 0o755), imagetest.File("d/f", text, 0o644)))
}

func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func store(t *testing.T, r *imagetest.Registry) *image.Store {
	t.Helper()
	s := &image.Store{Dir: filepath.Join(t.TempDir(), "images")}
	if r == nil {
		return s
	}
	s.Insecure = []string{r.Host}
	if r.User != "" {
		var err error
		if s.Credentials, err = image.ParseCredentials([][]byte{r.Secret()}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func has(t *testing.T, img image.Image, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(img.Rootfs, name))
	if err != nil || string(got) != want {
		t.Errorf("%s: %q, %v, want %q", name, got, err, want)
	}
}

func TestPolicies(t *testing.T) {
	r := imagetest.NewRegistry(t, false, "u", "w")
	full := r.Push(t, "team/app:v1", small(t, "one"))
	s := store(t, r)
	ctx := limit(t)
	if _, err := s.Ensure(ctx, full, corev1.PullNever, ""); !errors.Is(err, image.ErrNeverPull) {
		t.Errorf("never, absent: %v", err)
	}
	img, err := s.Ensure(ctx, full, corev1.PullIfNotPresent, "")
	if err != nil {
		t.Fatal(err)
	}
	has(t, img, "d/f", "one")
	c := img.Config
	if strings.Join(c.Entrypoint, " ") != "/run" || strings.Join(c.Cmd, " ") != "a b" || c.WorkingDir != "/w" || c.User != "7" || c.StopSignal != "SIGQUIT" || len(c.Env) != 1 {
		t.Errorf("config %+v", c)
	}
	if want := r.Host + "/team/app@" + img.Digest; img.ID != want {
		t.Errorf("id %s, want %s", img.ID, want)
	}
	r.Push(t, "team/app:v1", small(t, "two"))
	r.Reset()
	for _, p := range []corev1.PullPolicy{corev1.PullIfNotPresent, corev1.PullNever} {
		img, err := s.Ensure(ctx, full, p, "")
		if err != nil {
			t.Fatal(err)
		}
		has(t, img, "d/f", "one")
	}
	if n := r.Count("manifests") + r.Count("blobs"); n != 0 {
		t.Errorf("%d requests for what is present", n)
	}
	img2, err := s.Ensure(ctx, full, corev1.PullAlways, "")
	if err != nil {
		t.Fatal(err)
	}
	has(t, img2, "d/f", "two")
	// By digest, the old one is still what it was.
	old, err := s.Ensure(ctx, img.ID, corev1.PullNever, "")
	if !errors.Is(err, image.ErrNeverPull) {
		t.Errorf("never by a name not seen: %v, %v", old, err)
	}
	if old, err = s.Ensure(ctx, img.ID, corev1.PullAlways, ""); err != nil {
		t.Fatal(err)
	}
	has(t, old, "d/f", "one")
	left, err := filepath.Glob(filepath.Join(s.Dir, ".pull-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	st, err := os.Stat(s.Dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("store has mode %v, %v", st.Mode(), err)
	}
}

// All pullers of one name ask once, and run the same image although the tag moves.
func TestOnce(t *testing.T) {
	r := imagetest.NewRegistry(t, false, "", "")
	full := r.Push(t, "app:v1", small(t, "one"))
	s := store(t, r)
	ctx := limit(t)
	once := filepath.Join(t.TempDir(), "gang", image.Record(full))
	r.Reset()
	var wg sync.WaitGroup
	images := make([]image.Image, 8)
	for i := range images {
		wg.Go(func() {
			own := &image.Store{Dir: s.Dir, Insecure: s.Insecure}
			var err error
			if images[i], err = own.Ensure(ctx, full, corev1.PullAlways, once); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if m, b := r.Count("manifests"), r.Count("blobs"); m != 1 || b != 2 {
		t.Errorf("%d requests for manifests and %d for blobs, want 1 and 2", m, b)
	}
	r.Push(t, "app:v1", small(t, "two"))
	again, err := s.Ensure(ctx, full, corev1.PullAlways, once)
	if err != nil || again.Digest != images[0].Digest {
		t.Errorf("later member runs %v, %v", again, err)
	}
}

func TestCredentials(t *testing.T) {
	r := imagetest.NewRegistry(t, false, "u", "right-word")
	full := r.Push(t, "team/app:v1", small(t, "one"))
	ctx := limit(t)
	for name, tc := range map[string]struct {
		secrets []string
		ok      bool
	}{
		"none":           {nil, false},
		"wrong":          {[]string{`{"auths":{"` + r.Host + `":{"username":"u","password":"wrong-word"}}}`}, false},
		"right":          {[]string{`{"auths":{"` + r.Host + `":{"username":"u","password":"right-word"}}}`}, true},
		"wrong first":    {[]string{`{"auths":{"` + r.Host + `/team":{"username":"u","password":"wrong-word"}}}`, string(r.Secret())}, true},
		"scheme":         {[]string{`{"auths":{"http://` + r.Host + `/v2/":{"username":"u","password":"right-word"}}}`}, true},
		"other path":     {[]string{`{"auths":{"` + r.Host + `/other":{"username":"u","password":"right-word"}}}`}, false},
		"other registry": {[]string{`{"auths":{"example.com":{"username":"u","password":"right-word"}}}`}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t, nil)
			s.Insecure = []string{r.Host}
			var docs [][]byte
			for _, d := range tc.secrets {
				docs = append(docs, []byte(d))
			}
			var err error
			if s.Credentials, err = image.ParseCredentials(docs); err != nil {
				t.Fatal(err)
			}
			_, err = s.Ensure(ctx, full, corev1.PullAlways, "")
			if (err == nil) != tc.ok {
				t.Errorf("error %v, want success %v", err, tc.ok)
			}
			if err != nil && strings.Contains(err.Error(), "word") {
				t.Errorf("the error tells a password: %v", err)
			}
		})
	}
}

func TestBadSecretIsNotQuoted(t *testing.T) {
	for _, doc := range []string{`{"auths":"canary"}`, `canary`, `{"auths":{"x":{"auth":"canary!"}}}`, `{"auths":{"x":{"auth":"Y2FuYXJ5"}}}`} {
		_, err := image.ParseCredentials([][]byte{[]byte(doc)})
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", doc, err)
		}
	}
}

func TestTLS(t *testing.T) {
	r := imagetest.NewRegistry(t, true, "", "")
	full := r.Push(t, "app:v1", small(t, "one"))
	ctx := limit(t)
	s := store(t, nil)
	if _, err := s.Ensure(ctx, full, corev1.PullAlways, ""); err == nil {
		t.Error("an unknown authority is trusted")
	}
	s.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(s.CAFile, r.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ensure(ctx, full, corev1.PullAlways, ""); err != nil {
		t.Error(err)
	}
	// Without TLS only where the cluster says so, also on loopback.
	plain := imagetest.NewRegistry(t, false, "", "")
	full = plain.Push(t, "app:v1", small(t, "one"))
	if _, err := s.Ensure(ctx, full, corev1.PullAlways, ""); err == nil || plain.Count("manifests") > 0 {
		t.Errorf("spoken to without TLS: %v", err)
	}
	// A mirror stands for another registry.
	s.Insecure = []string{plain.Host}
	s.Mirrors = []image.Mirror{{Registry: "docker.io", Endpoint: plain.Host + "/cache"}}
	plain.Push(t, "cache/library/tool:latest", small(t, "mirrored"))
	img, err := s.Ensure(ctx, "tool", corev1.PullAlways, "")
	if err != nil {
		t.Fatal(err)
	}
	has(t, img, "d/f", "mirrored")
	if want := "docker.io/library/tool@" + img.Digest; img.ID != want {
		t.Errorf("id %s, want %s", img.ID, want)
	}
}

func TestArchives(t *testing.T) {
	dir := t.TempDir()
	img := small(t, "archived")
	tag, err := name.NewTag("app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "docker.tar"), tag, img); err != nil {
		t.Fatal(err)
	}
	l, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v1"})); err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(small(t, "other"), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "v2"})); err != nil {
		t.Fatal(err)
	}
	var entries []imagetest.Entry
	err = filepath.WalkDir(filepath.Join(dir, "layout"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(filepath.Join(dir, "layout"), p)
		entries = append(entries, imagetest.File(rel, string(data), 0o644))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "oci.tar"), imagetest.Tar(t, entries...), 0o600); err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "docker.tar")
	if err := tarball.WriteToFile(outside, tag, img); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.tar")); err != nil {
		t.Fatal(err)
	}
	s := store(t, nil)
	s.Archives = []string{dir}
	for in, want := range map[string]string{
		"docker-archive:" + dir + "/docker.tar": "archived",
		"oci:" + dir + "/layout:v1":             "archived",
		"oci-archive:" + dir + "/oci.tar:v1":    "archived",
		"oci-archive:" + dir + "/oci.tar:v2":    "other",
		"oci:" + dir + "/layout":                "", // there are two
		"docker-archive:" + dir + "/none.tar":   "",
		"docker-archive:" + dir + "/link.tar":   "", // leads out
		"docker-archive:" + outside:             "",
	} {
		img, err := s.Ensure(limit(t), in, corev1.PullIfNotPresent, "")
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", in, err)
		}
		if err == nil {
			has(t, img, "d/f", want)
		}
	}
	// A file that was written anew is another image, whatever the policy says.
	if err := tarball.WriteToFile(filepath.Join(dir, "docker.tar"), tag, small(t, "newer, longer")); err != nil {
		t.Fatal(err)
	}
	newer, err := s.Ensure(limit(t), "docker-archive:"+dir+"/docker.tar", corev1.PullIfNotPresent, "")
	if err != nil {
		t.Fatal(err)
	}
	has(t, newer, "d/f", "newer, longer")
}

// A layer that is not the one the image names is never used.
func TestCorruptLayer(t *testing.T) {
	dir := t.TempDir()
	l, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	img, other := small(t, "good"), small(t, "evil")
	if err := l.AppendImage(img); err != nil {
		t.Fatal(err)
	}
	digestOf := func(i v1.Image) (string, v1.Layer) {
		layers, err := i.Layers()
		if err != nil {
			t.Fatal(err)
		}
		d, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		return d.Hex, layers[0]
	}
	hex, _ := digestOf(img)
	_, evil := digestOf(other)
	in, err := evil.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "layout/blobs/sha256", hex))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadFrom(in); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s := store(t, nil)
	s.Archives = []string{dir}
	if img, err := s.Ensure(limit(t), "oci:"+dir+"/layout", corev1.PullAlways, ""); err == nil {
		t.Errorf("taken: %v", img)
	}
	for _, pattern := range []string{".pull-*", "sha256/*", "refs/*"} {
		if left, err := filepath.Glob(filepath.Join(s.Dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
	}
}

func TestNames(t *testing.T) {
	s := store(t, nil)
	for _, in := range []string{"", "UPPER/case", "a b", "x@sha256:1", "registry:x/y", "oci:/../etc", "docker-archive:/etc/passwd"} {
		if _, err := s.Ensure(limit(t), in, corev1.PullNever, ""); err == nil || (!errors.Is(err, image.ErrInvalidName) && !errors.Is(err, image.ErrNeverPull)) {
			t.Errorf("%q: %v", in, err)
		}
	}
}
