package stage

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/rootpath"
)

// View is a container's root directory: the image, over which changes go to
// Upper and are lost with it. Where the node's kernel cannot do that for users,
// the view is read-only.
type View struct {
	Rootfs string `json:"rootfs"`
	Dir    string `json:"dir"`   // where it appears
	Upper  string `json:"upper"` // holds the changes
	Work   string `json:"work"`  // an empty directory of the same filesystem
	// ReadOnly views take no changes.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Files and Folders are made where the image has no such thing, since the
	// runtime's program binds something there.
	Files   []string `json:"files,omitempty"`
	Folders []string `json:"folders,omitempty"`
	// Binds are made ready for the runtime's program to bind in: the source
	// appears at At, a name without odd characters, and the target exists in the
	// view.
	Binds []Bind `json:"binds,omitempty"`
}

// Bind is a mount that the runtime's own program completes.
type Bind struct {
	Mount
	At string `json:"at"`
}

// makeView makes the root directory of a container and what is to be bound into it.
func makeView(v *View) *Failure {
	b := &builder{mirrored: map[string]string{}}
	if err := b.base(v); err != nil {
		return &Failure{Kind: "stage", Message: "make the container's root directory: " + err.Error()}
	}
	for _, list := range []struct {
		names []string
		isDir bool
	}{{v.Folders, true}, {v.Files, false}} {
		for _, name := range list.names {
			if err := b.exists(v.Dir, name, list.isDir); err != nil {
				return &Failure{Kind: "stage", Message: fmt.Sprintf("make %s in the container: %v", name, err)}
			}
		}
	}
	binds := slices.Clone(v.Binds)
	slices.SortStableFunc(binds, func(a, b Bind) int {
		return cmp.Compare(strings.Count(filepath.Clean(a.Target), "/"), strings.Count(filepath.Clean(b.Target), "/"))
	})
	for i, m := range binds {
		if err := b.bind(v, binds[:i], m); err != nil && !m.Optional {
			return &Failure{Kind: "mount", Field: m.Field, Message: fmt.Sprintf("%s cannot be mounted: %v", m.Target, err)}
		}
	}
	if v.ReadOnly {
		if err := readOnly(v.Dir); err != nil {
			return &Failure{Kind: "mount", Field: "securityContext.readOnlyRootFilesystem", Message: err.Error()}
		}
	}
	return nil
}

// base puts the image in place with an overlay over it. The kernel lets users
// make one since 5.11; where it does not, changes must be given up.
func (b *builder) base(v *View) error {
	if strings.ContainsAny(v.Rootfs+v.Upper+v.Work, `,:\`) {
		return fmt.Errorf("the directory of the image or of the scratch space (%q, %q) has a comma, colon or backslash, which overlays cannot name", v.Rootfs, v.Upper)
	}
	for _, dir := range []string{v.Dir, v.Upper, v.Work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + v.Rootfs + ",upperdir=" + v.Upper + ",workdir=" + v.Work + ",userxattr"
	err := unix.Mount("overlay", v.Dir, "overlay", unix.MS_NODEV, options)
	if err == nil {
		return nil
	}
	berr := unix.Mount(v.Rootfs, v.Dir, "", unix.MS_BIND, "")
	if berr == nil {
		berr = readOnly(v.Dir)
	}
	if berr != nil {
		return fmt.Errorf("overlay: %w; bind: %w", err, berr)
	}
	work := filepath.Join(v.Work, "mirrors")
	if err := os.Mkdir(work, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("isthmus", work, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount temporary filesystem: %w", err)
	}
	b.work, err = os.Open(work)
	return err
}

// bind makes m ready: its source at m.At, and its target within the view or
// within what is bound there before it.
func (b *builder) bind(v *View, before []Bind, m Bind) error {
	source, err := openSource(m.Mount)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	defer source.Close()
	st, err := source.Stat()
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(m.At), 0o700); err != nil {
		return err
	}
	if err := makeEntry(m.At, st.IsDir()); err != nil {
		return err
	}
	if err := unix.Mount(path(source), m.At, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	under, rest := v.Dir, filepath.Clean(m.Target)
	for _, p := range slices.Backward(before) {
		if t := filepath.Clean(p.Target); strings.HasPrefix(rest, t+"/") {
			under, rest = p.At, strings.TrimPrefix(rest, t)
			break
		}
	}
	if err := b.exists(under, rest, st.IsDir()); err != nil {
		return err
	}
	if m.ReadOnly {
		return readOnly(m.At)
	}
	return nil
}

// exists makes name in the container's root directory, or checks its kind.
func (b *builder) exists(root, name string, isDir bool) error {
	full, err := rootpath.In(root, name, true)
	if err != nil {
		return err
	}
	have, err := os.Lstat(full)
	switch {
	case err == nil && have.IsDir() != isDir:
		return errors.New("source and mount path are not of one kind (file or directory)")
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, err = b.ensure(full, isDir)
	return err
}
