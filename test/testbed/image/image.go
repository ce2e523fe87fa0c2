// Package image makes container images out of this machine's own programs, so
// that a pod in a container finds the user land that a process of the machine
// finds. No registry is involved: an image is an OCI archive.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Image is what is written.
type Image struct {
	// Name is the full name with tag that the archive carries.
	Name string
	// Tree is the root filesystem.
	Tree *Tree
	// User runs the image's programs: "uid:gid" or "" for root.
	User string
	// Env holds NAME=value.
	Env []string
	// Entrypoint and Cmd are what runs without a command.
	Entrypoint, Cmd []string
	// WorkingDir may be "" for the root.
	WorkingDir string
}

// Tree is a root filesystem in the making. Programs and libraries belong to
// root; the directory /tmp is everyone's.
type Tree struct {
	entries map[string]entry
}

type entry struct {
	tar.Header
	from    string // a file of this machine, or
	content []byte
}

// NewTree has the directories of a Debian system and nothing in them.
func NewTree() *Tree {
	t := &Tree{entries: map[string]entry{}}
	for _, dir := range []string{"usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "etc", "proc", "sys", "dev", "run", "var/tmp", "root", "home", "mnt", "opt", "srv"} {
		t.dir(dir, 0o755)
	}
	t.dir("tmp", 0o1777)
	for _, name := range []string{"bin", "lib", "lib64", "sbin"} {
		t.entries[name] = entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: "usr/" + name, Mode: 0o777}}
	}
	return t
}

func (t *Tree) dir(name string, mode int64) {
	if _, ok := t.entries[name]; ok {
		return
	}
	if parent := path.Dir(name); parent != "." {
		t.dir(parent, 0o755)
	}
	t.entries[name] = entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: mode}}
}

// Write puts a file with that content in; name is absolute.
func (t *Tree) Write(name string, mode int64, content []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	t.dir(path.Dir(name), 0o755)
	t.entries[name] = entry{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}, content: content}
}

// Copy puts a file of this machine in under the same name. Links are followed.
func (t *Tree) Copy(name string) error { return t.CopyAs(name, name) }

// CopyAs puts a file of this machine in under another name.
func (t *Tree) CopyAs(from, name string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("copy into image: %w", err)
	}
	name = strings.TrimPrefix(path.Clean(name), "/")
	for _, merged := range []string{"bin/", "lib/", "lib64/", "sbin/"} {
		if strings.HasPrefix(name, merged) {
			name = "usr/" + name
		}
	}
	t.dir(path.Dir(name), 0o755)
	t.entries[name] = entry{Header: tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: int64(info.Mode().Perm()), Size: info.Size(),
	}, from: from}
	return nil
}

func (t *Tree) write(w io.Writer) error {
	out := tar.NewWriter(w)
	names := make([]string, 0, len(t.entries))
	for name := range t.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		e := t.entries[name]
		if err := out.WriteHeader(&e.Header); err != nil {
			return fmt.Errorf("write image: %s: %w", name, err)
		}
		if err := e.copy(out); err != nil {
			return fmt.Errorf("write image: %s: %w", name, err)
		}
	}
	return out.Close()
}

func (e entry) copy(w io.Writer) error {
	if e.from == "" {
		_, err := w.Write(e.content)
		return err
	}
	f, err := os.Open(e.from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, err = io.Copy(w, f)
	return err
}

// descriptor and the types below are those of the OCI image specification.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type configFile struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       config `json:"config"`
	RootFS       struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

type config struct {
	User       string   `json:",omitempty"`
	Env        []string `json:",omitempty"`
	Entrypoint []string `json:",omitempty"`
	Cmd        []string `json:",omitempty"`
	WorkingDir string   `json:",omitempty"`
}

const (
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeIndex    = "application/vnd.oci.image.index.v1+json"
)

// WriteArchive writes images to one OCI archive. Images of the same Tree share
// its layer.
func WriteArchive(file string, images ...Image) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	defer func() { _ = f.Close() }()
	a := &archive{out: tar.NewWriter(f), seen: map[string]bool{}}
	a.file("oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`))
	layers := map[*Tree]descriptor{}
	var manifests []descriptor
	for _, i := range images {
		layer, ok := layers[i.Tree]
		if !ok {
			var raw bytes.Buffer
			if err := i.Tree.write(&raw); err != nil {
				return err
			}
			layer = a.blob(typeLayer, raw.Bytes())
			layers[i.Tree] = layer
		}
		c := configFile{Architecture: runtime.GOARCH, OS: "linux",
			Config: config{User: i.User, Env: i.Env, Entrypoint: i.Entrypoint, Cmd: i.Cmd, WorkingDir: i.WorkingDir}}
		c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{layer.Digest}
		m := a.json(typeManifest, map[string]any{
			"schemaVersion": 2, "mediaType": typeManifest, "config": a.json(typeConfig, c), "layers": []descriptor{layer},
		})
		m.Annotations = map[string]string{
			"io.containerd.image.name": i.Name, "org.opencontainers.image.ref.name": i.Name[strings.LastIndex(i.Name, ":")+1:],
		}
		manifests = append(manifests, m)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": typeIndex, "manifests": manifests})
	if err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	a.file("index.json", index)
	if a.err == nil {
		a.err = a.out.Close()
	}
	if a.err != nil {
		return fmt.Errorf("write image: %w", a.err)
	}
	return f.Close()
}

// archive keeps the first error.
type archive struct {
	out  *tar.Writer
	seen map[string]bool
	err  error
}

func (a *archive) file(name string, content []byte) {
	if a.err != nil || a.seen[name] {
		return
	}
	a.seen[name] = true
	if a.err = a.out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); a.err == nil {
		_, a.err = a.out.Write(content)
	}
}

func (a *archive) blob(kind string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	a.file("blobs/sha256/"+digest, content)
	return descriptor{MediaType: kind, Digest: "sha256:" + digest, Size: len(content)}
}

func (a *archive) json(kind string, v any) descriptor {
	raw, err := json.Marshal(v)
	if err != nil && a.err == nil {
		a.err = err
	}
	return a.blob(kind, raw)
}
