package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/rootpath"
)

// Names of whiteouts, from the OCI image layer specification.
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// maxEntryName bounds the names in a layer, in bytes.
const maxEntryName = 4096

// unpack applies one layer to a root directory as an unprivileged user can: all
// files are the user's and readable for him, device nodes are left out (the
// node's own /dev is what containers see), and so are set-id bits. No entry
// touches anything outside, whatever its name or the links before it say.
func unpack(root *os.Root, layer io.Reader) error {
	l := &layerState{root: root, made: map[string]bool{}}
	r := tar.NewReader(layer)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		if err := l.entry(h, r); err != nil {
			return fmt.Errorf("layer entry %.300q: %w", h.Name, err)
		}
	}
}

type layerState struct {
	root *os.Root
	made map[string]bool // what this layer has brought: its whiteouts are about those below
}

func (l *layerState) entry(h *tar.Header, content io.Reader) error {
	if len(h.Name) > maxEntryName || strings.ContainsRune(h.Name, 0) {
		return errors.New("the name is too long or has a NUL byte")
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if name == "" {
		return nil // the root directory itself
	}
	base := path.Base(name)
	dir, err := l.parent(name)
	if err != nil {
		return err
	}
	at := path.Join(dir, base)
	switch {
	case base == opaque:
		return l.clear(dir)
	case strings.HasPrefix(base, whiteout):
		hidden := path.Join(dir, strings.TrimPrefix(base, whiteout))
		if hidden == dir || path.Dir(hidden) != dir || l.made[hidden] {
			return nil
		}
		return removeAll(l.root, hidden)
	}
	return l.put(at, h, content)
}

// parent gives the directory of name with links resolved, and makes it.
func (l *layerState) parent(name string) (string, error) {
	dir, err := rootpath.Resolve(l.root, path.Dir(name), true)
	if err != nil {
		return "", err
	}
	if st, err := l.root.Lstat(dir); err == nil && st.IsDir() {
		return dir, nil
	}
	return dir, l.makeAll(dir)
}

// makeAll makes a directory that the layer forgot to name, and those above it,
// whatever the umask is.
func (l *layerState) makeAll(dir string) error {
	if st, err := l.root.Lstat(dir); dir == "." || err == nil && st.IsDir() {
		return nil
	}
	if err := l.makeAll(path.Dir(dir)); err != nil {
		return err
	}
	if err := l.root.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return l.root.Chmod(dir, 0o755)
}

// clear removes what layers below have put into dir.
func (l *layerState) clear(dir string) error {
	d, err := l.root.Open(dir)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close() // it was only read
	if err != nil {
		return err
	}
	for _, n := range names {
		if full := path.Join(dir, n); !l.made[full] && !l.above(full) {
			if err := removeAll(l.root, full); err != nil {
				return err
			}
		}
	}
	return nil
}

// above reports whether the layer has put something beneath dir.
func (l *layerState) above(dir string) bool {
	for m := range l.made {
		if strings.HasPrefix(m, dir+"/") {
			return true
		}
	}
	return false
}

func (l *layerState) put(at string, h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink:
	default:
		return nil // device nodes and pipes
	}
	l.made[at] = true
	have, err := l.root.Lstat(at)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	perm := fs.FileMode(h.Mode).Perm()
	if h.Mode&0o1000 != 0 && h.Typeflag == tar.TypeDir {
		perm |= fs.ModeSticky
	}
	if h.Typeflag == tar.TypeDir && err == nil && have.IsDir() {
		return l.root.Chmod(at, perm|0o700)
	}
	if err == nil {
		if h.Typeflag == tar.TypeLink && l.same(at, h.Linkname) {
			return nil
		}
		if err := removeAll(l.root, at); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := l.root.Mkdir(at, 0o700); err != nil {
			return err
		}
		return l.root.Chmod(at, perm|0o700)
	case tar.TypeSymlink:
		return l.root.Symlink(h.Linkname, at)
	case tar.TypeLink:
		target, err := rootpath.Resolve(l.root, h.Linkname, false)
		if err != nil {
			return err
		}
		return l.root.Link(target, at)
	}
	return l.file(at, perm|0o600, h.ModTime, content)
}

// same reports whether a hard link would be to the file itself, which must not
// be removed first.
func (l *layerState) same(at, link string) bool {
	target, err := rootpath.Resolve(l.root, link, false)
	return err == nil && target == at
}

func (l *layerState) file(at string, perm fs.FileMode, modified time.Time, content io.Reader) error {
	f, err := l.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Chmod(perm)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil && !modified.IsZero() {
		// Python and others compare times of files.
		err = l.root.Chtimes(at, modified, modified)
	}
	return err
}

// removeAll removes a tree even when its directories lack permissions.
func removeAll(root *os.Root, name string) error {
	if err := root.RemoveAll(name); err == nil {
		return nil
	}
	sub, err := root.OpenRoot(name)
	if err != nil {
		return root.RemoveAll(name)
	}
	_ = fs.WalkDir(sub.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = sub.Chmod(p, 0o700) // the removal below reports what is left
			if err != nil {
				return fs.SkipDir
			}
		}
		return nil
	})
	_ = sub.Close() // it was only read
	return root.RemoveAll(name)
}
