// Package reference reads the names of container images: references to
// registries as Kubernetes takes them, and archives on the cluster's own file
// systems. It is pure.
package reference

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
)

// Transports of images that are no registry's.
const (
	OCIArchive    = "oci-archive"    // a tar of an OCI image layout
	DockerArchive = "docker-archive" // what "docker save" writes
	OCI           = "oci"            // a directory with an OCI image layout
)

// Defaults of references that leave something out.
const (
	DefaultRegistry = "docker.io"
	DefaultTag      = "latest"
	officialPrefix  = "library/"
)

// maxName bounds registry and repository, as the distribution specification's
// implementations do; maxPath bounds an archive's path.
const (
	maxName = 255
	maxPath = 4096
)

// Reference names one image.
type Reference struct {
	// Transport is "" for registries, else one of the constants.
	Transport string
	// Registry is host[:port]; Repository has no leading slash.
	Registry, Repository string
	// Tag and Digest: one is set at least. With both, the digest decides.
	Tag, Digest string
	// Path is an archive's file or a layout's directory, absolute and clean; Tag
	// may then say which of its images, and is else empty.
	Path string
}

var (
	// Source: the grammar of github.com/distribution/reference.
	host      = regexp.MustCompile(`\A(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]{1,5})?\z`)
	component = regexp.MustCompile(`\A[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*\z`)
	tag       = regexp.MustCompile(`\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\z`)
	digest    = regexp.MustCompile(`\Asha256:[a-f0-9]{64}\z`)
)

// Parse reads an image's name. The error says what is wrong with it.
func Parse(image string) (Reference, error) {
	for _, t := range []string{OCIArchive, DockerArchive, OCI} {
		if rest, ok := strings.CutPrefix(image, t+":"); ok && strings.HasPrefix(rest, "/") {
			return parsePath(t, rest)
		}
	}
	return parseName(image)
}

func parsePath(transport, rest string) (Reference, error) {
	r := Reference{Transport: transport, Path: rest}
	// A tag is what follows the last colon, when it can be one: paths with colons
	// need one.
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		if r.Path, r.Tag = rest[:i], rest[i+1:]; !tag.MatchString(r.Tag) {
			return Reference{}, fmt.Errorf("%q is no tag of an image in an archive", short(r.Tag))
		}
	}
	if len(r.Path) > maxPath || strings.ContainsAny(r.Path, "\x00\n") || path.Clean(r.Path) != r.Path || r.Path == "/" {
		return Reference{}, fmt.Errorf("%q is not a clean absolute path", short(r.Path))
	}
	return r, nil
}

func parseName(image string) (Reference, error) {
	var r Reference
	name := image
	if before, after, ok := strings.Cut(name, "@"); ok {
		if !digest.MatchString(after) {
			return Reference{}, fmt.Errorf("%q is no digest: it must be sha256: and 64 lower-case hexadecimal digits", short(after))
		}
		name, r.Digest = before, after
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		// "host:5000" alone is read as name and tag, as everywhere.
		if name, r.Tag = name[:i], name[i+1:]; !tag.MatchString(r.Tag) {
			return Reference{}, fmt.Errorf("%q is no tag: letters, digits, '_', '.' and '-', at most 128", short(r.Tag))
		}
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	first, rest, more := strings.Cut(name, "/")
	if more && (strings.ContainsAny(first, ".:") || first == "localhost") {
		r.Registry, r.Repository = first, rest
	} else {
		r.Registry, r.Repository = DefaultRegistry, name
	}
	if r.Registry == "index.docker.io" {
		r.Registry = DefaultRegistry
	}
	if !host.MatchString(r.Registry) || !address(r.Registry) {
		return Reference{}, fmt.Errorf("%q is no registry: it must be host[:port]", short(r.Registry))
	}
	if r.Registry == DefaultRegistry && !strings.Contains(r.Repository, "/") {
		r.Repository = officialPrefix + r.Repository
	}
	if len(r.Registry)+1+len(r.Repository) > maxName {
		return Reference{}, fmt.Errorf("the name has more than %d characters", maxName)
	}
	for c := range strings.SplitSeq(r.Repository, "/") {
		if !component.MatchString(c) {
			return Reference{}, fmt.Errorf("%q cannot be part of an image's name: lower-case letters and digits, with single separators '.', '_', '__' and '-' between them", short(strings.TrimPrefix(c, officialPrefix)))
		}
	}
	return r, nil
}

// address checks what stands in brackets.
func address(registry string) bool {
	inside, ok := strings.CutPrefix(registry, "[")
	if !ok {
		return true
	}
	inside, _, _ = strings.Cut(inside, "]")
	a, err := netip.ParseAddr(inside)
	return err == nil && a.Is6()
}

// Name is the image without tag and digest.
func (r Reference) Name() string {
	if r.Transport != "" {
		return r.Transport + ":" + r.Path
	}
	return r.Registry + "/" + r.Repository
}

// String is the full form; Parse reads it back.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Within reports whether the archive's path is one of the prefixes or beneath
// one.
func (r Reference) Within(prefixes []string) bool { return Within(r.Path, prefixes) }

// Within reports whether a clean path is one of the prefixes or beneath one.
func Within(name string, prefixes []string) bool {
	for _, p := range prefixes {
		p = path.Clean(p)
		if name == p || p == "/" || strings.HasPrefix(name, p+"/") {
			return true
		}
	}
	return false
}

func short(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}
