package image

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/reference"
)

// Bounds of a registry's patience with us and ours with it.
const (
	connectLimit = 30 * time.Second
	answerLimit  = 2 * time.Minute
	// stallLimit is how long a layer may bring nothing.
	stallLimit = 2 * time.Minute
)

// source is an image that can be unpacked.
type source struct {
	v1.Image
	digest string // of the image's manifest, or of the index that the name stands for
	close  func()
}

// open finds the image that a reference stands for now.
func (s *Store) open(ctx context.Context, r reference.Reference, work string) (*source, error) {
	switch r.Transport {
	case "":
		return s.openRemote(ctx, r)
	case reference.DockerArchive:
		var t *name.Tag
		if r.Tag != "" {
			return nil, errors.New("docker-archive: images are not chosen by tag; the archive must have just one")
		}
		img, err := tarball.ImageFromPath(r.Path, t)
		return s.local(img, err)
	case reference.OCI:
		return s.openLayout(r.Path, r.Tag)
	case reference.OCIArchive:
		dir := filepath.Join(work, "layout")
		if err := unpackLayout(r.Path, dir); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Name(), err)
		}
		return s.openLayout(dir, r.Tag)
	}
	return nil, fmt.Errorf("transport %q is not known", r.Transport)
}

func (s *Store) local(img v1.Image, err error) (*source, error) {
	if err != nil {
		return nil, err
	}
	d, err := img.Digest()
	if err != nil {
		return nil, err
	}
	return &source{Image: img, digest: d.String()}, nil
}

// openLayout finds one image in a layout: by tag, or the only one for this platform.
func (s *Store) openLayout(dir, tag string) (*source, error) {
	p, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	index, err := p.ImageIndex()
	if err != nil {
		return nil, err
	}
	img, err := pick(index, tag, 0)
	return s.local(img, err)
}

// maxDepth bounds indexes within indexes.
const maxDepth = 4

func pick(index v1.ImageIndex, tag string, depth int) (v1.Image, error) {
	if depth == maxDepth {
		return nil, errors.New("indexes are nested too deep")
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var fit []v1.Descriptor
	for _, d := range m.Manifests {
		if tag != "" && d.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		if d.Platform != nil && d.Platform.OS != "unknown" && (d.Platform.OS != "linux" || d.Platform.Architecture != runtime.GOARCH) {
			continue
		}
		if d.Platform != nil && d.Platform.OS == "unknown" {
			continue // an attestation
		}
		fit = append(fit, d)
	}
	switch {
	case len(fit) == 0:
		return nil, fmt.Errorf("there is no image %q for linux/%s in it", tag, runtime.GOARCH)
	case len(fit) > 1:
		return nil, fmt.Errorf("there are %d images in it; choose one by its tag", len(fit))
	case fit[0].MediaType.IsIndex():
		sub, err := index.ImageIndex(fit[0].Digest)
		if err != nil {
			return nil, err
		}
		return pick(sub, "", depth+1)
	}
	return index.Image(fit[0].Digest)
}

// unpackLayout takes the files of an OCI layout out of a tar, and nothing else.
func unpackLayout(file, dir string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		clean := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg || clean != "index.json" && clean != "oci-layout" && !strings.HasPrefix(clean, "blobs/") {
			continue
		}
		if err := root.MkdirAll(path.Dir(clean), 0o700); err != nil {
			return err
		}
		out, err := root.OpenFile(clean, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, r)
		if cerr := out.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
}

// endpoint is where a registry's images are really asked for.
func (s *Store) endpoint(r reference.Reference) (registry, repository string) {
	for _, m := range s.Mirrors {
		if m.Registry == r.Registry {
			host, prefix, _ := strings.Cut(m.Endpoint, "/")
			return host, path.Join(prefix, r.Repository)
		}
	}
	return r.Registry, r.Repository
}

func (s *Store) openRemote(ctx context.Context, r reference.Reference) (*source, error) {
	registry, repository := s.endpoint(r)
	var options []name.Option
	plain := false
	for _, host := range s.Insecure {
		if host == registry {
			options, plain = append(options, name.Insecure), true
		}
	}
	full := registry + "/" + repository
	var ref name.Reference
	var err error
	if r.Digest != "" {
		ref, err = name.NewDigest(full+"@"+r.Digest, options...)
	} else {
		ref, err = name.NewTag(full+":"+r.Tag, options...)
	}
	if err != nil {
		return nil, err
	}
	tr, err := s.transport(plain)
	if err != nil {
		return nil, err
	}
	pullCtx, cancel := context.WithCancel(ctx)
	ways := authenticators(s.Credentials, r.Registry, r.Repository)
	if registry != r.Registry {
		ways = append(authenticators(s.Credentials, registry, repository), ways...)
	}
	for i, auth := range ways {
		var desc *remote.Descriptor
		desc, err = remote.Get(ref, remote.WithContext(pullCtx), remote.WithAuth(auth), remote.WithTransport(tr),
			remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}), remote.WithUserAgent("isthmus-podrun"))
		if err == nil {
			var img v1.Image
			if img, err = desc.Image(); err == nil {
				return &source{Image: img, digest: desc.Digest.String(), close: func() { cancel(); tr.CloseIdleConnections() }}, nil
			}
		}
		if !refused(err) || i == len(ways)-1 {
			break
		}
	}
	cancel()
	tr.CloseIdleConnections()
	if refused(err) && len(ways) == 1 && ways[0] == authn.Anonymous {
		err = fmt.Errorf("%w (%w)", err, errNoCredential)
	}
	return nil, err
}

// refused reports whether another credential may do better.
func refused(err error) bool {
	var t *transport.Error
	return errors.As(err, &t) && (t.StatusCode == http.StatusUnauthorized || t.StatusCode == http.StatusForbidden)
}

// plainGuard refuses requests without TLS. The library falls back to them for
// addresses that look private, and follows redirects to them.
type plainGuard struct{ next http.RoundTripper }

func (g plainGuard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s is asked for without TLS, and %s is not one of the cluster's insecure registries", req.URL.Path, req.URL.Host)
	}
	return g.next.RoundTrip(req)
}

func (g plainGuard) CloseIdleConnections() {
	if c, ok := g.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

type roundTripper interface {
	http.RoundTripper
	CloseIdleConnections()
}

func (s *Store) transport(plain bool) (roundTripper, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a node without authorities trusts those given
	}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, fmt.Errorf("registries' authorities: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("registries' authorities: %s has no certificate", s.CAFile)
		}
	}
	dialer := &net.Dialer{Timeout: connectLimit, KeepAlive: 30 * time.Second}
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: connectLimit, ResponseHeaderTimeout: answerLimit, IdleConnTimeout: time.Minute,
		TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}
	if plain {
		return tr, nil
	}
	return plainGuard{tr}, nil
}
