// Package imagetest makes container images and a registry to test with: the
// images hold a static busybox of this machine, the registry listens on
// loopback and counts what it is asked for.
package imagetest

import (
	"archive/tar"
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Busybox is where Debian's package busybox-static has its program.
const Busybox = "/bin/busybox"

// applets are the programs of busybox that images have.
var applets = []string{"sh", "ls", "cat", "id", "env", "sleep", "echo", "touch", "pwd", "kill", "hostname", "test", "stat", "true", "false",
	"mkdir", "rm", "readlink", "wc", "head", "tr", "trap", "printenv", "grep", "sed", "dd", "df", "ps", "mount", "seq", "usleep"}

// Layer makes a layer of the entries.
func Layer(t testing.TB, entries ...Entry) v1.Layer {
	t.Helper()
	data := Tar(t, entries...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Entry is one entry of a layer.
type Entry struct {
	tar.Header
	Data []byte
}

// File makes a regular file.
func File(name, text string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode}, Data: []byte(text)}
}

// Dir makes a directory.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}}
}

// Link makes a symbolic link.
func Link(name, to string) Entry {
	return Entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}}
}

// Tar makes an archive of the entries.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.Data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Image makes an image of layers for this machine's architecture.
func Image(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Shell is an image with busybox, and some files to look at.
func Shell(t testing.TB, config v1.Config, more ...Entry) v1.Image {
	t.Helper()
	data, err := os.ReadFile(Busybox)
	if err != nil {
		t.Fatalf("busybox for images is missing (Debian package busybox-static): %v", err)
	}
	entries := []Entry{Dir("bin", 0o755), Dir("tmp", 0o1777), Dir("etc", 0o755), Dir("root", 0o700), Dir("usr/bin", 0o755),
		File("bin/busybox", string(data), 0o755), File("etc/image", "isthmus\n", 0o644), Link("usr/sh", "/bin/sh")}
	for _, a := range applets {
		entries = append(entries, Link("bin/"+a, "busybox"))
	}
	if config.Env == nil {
		config.Env = []string{"PATH=/bin:/usr/bin", "FROM_IMAGE=yes"}
	}
	return Image(t, config, Layer(t, entries...), Layer(t, append([]Entry{File("layer2", "two\n", 0o600)}, more...)...))
}

// Registry is a registry on loopback.
type Registry struct {
	// Host is host:port.
	Host       string
	User, Word string // what it wants to see; both empty: nothing
	server     *httptest.Server

	mu     sync.Mutex
	counts map[string]int
	// Gate, when it is not nil, is called before a blob is served.
	gate func()
}

// NewRegistry starts a registry, with TLS or without, that wants user and word.
func NewRegistry(t testing.TB, tls bool, user, word string) *Registry {
	t.Helper()
	r := &Registry{User: user, Word: word, counts: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	handler := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		u, p, _ := req.BasicAuth()
		if subtle.ConstantTimeCompare([]byte(u+":"+p), []byte(r.User+":"+r.Word)) != 1 && r.User != "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		kind := ""
		switch {
		case req.Method != http.MethodGet:
		case strings.Contains(req.URL.Path, "/manifests/"):
			kind = "manifests"
		case strings.Contains(req.URL.Path, "/blobs/sha256:"):
			kind = "blobs"
		}
		r.mu.Lock()
		r.counts[kind]++
		gate := r.gate
		r.mu.Unlock()
		if kind == "blobs" && gate != nil {
			gate()
		}
		inner.ServeHTTP(w, req)
	})
	if tls {
		r.server = httptest.NewTLSServer(handler)
	} else {
		r.server = httptest.NewServer(handler)
	}
	t.Cleanup(r.server.Close)
	_, r.Host, _ = strings.Cut(r.server.URL, "://")
	return r
}

// Close has nobody reach the registry from now on.
func (r *Registry) Close() { r.server.Close() }

// CA is the registry's certificate in PEM, for those with TLS.
func (r *Registry) CA() []byte {
	c := r.server.Certificate()
	if c == nil {
		return nil
	}
	return []byte("-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(c.Raw) + "\n-----END CERTIFICATE-----\n")
}

// Gate has f called before each blob is served from now on; nil ends that.
func (r *Registry) Gate(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate = f
}

// Count is how often manifests or blobs were asked for since the last Reset.
func (r *Registry) Count(kind string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[kind]
}

// Reset forgets the counts.
func (r *Registry) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = map[string]int{}
}

// Push puts an image into the registry and gives its full name.
func (r *Registry) Push(t testing.TB, repository string, img v1.Image) string {
	t.Helper()
	full := r.Host + "/" + repository
	ref, err := name.ParseReference(full, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	auth := authn.Anonymous
	if r.User != "" {
		auth = &authn.Basic{Username: r.User, Password: r.Word}
	}
	if err := remote.Write(ref, img, remote.WithAuth(auth), remote.WithTransport(r.server.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	return full
}

// Secret is a .dockerconfigjson for the registry.
func (r *Registry) Secret() []byte {
	data, err := json.Marshal(map[string]any{"auths": map[string]any{
		r.Host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(fmt.Sprintf("%s:%s", r.User, r.Word)))}}})
	if err != nil {
		panic(err) // strings always encode
	}
	return data
}
