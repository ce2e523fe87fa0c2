package stage

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/safepath"
)

// maxMirror bounds the entries of a directory that can be rebuilt: each costs a mount.
const maxMirror = 20000

// builder makes a program's view of the filesystem inside its namespace.
//
// A mount point that is missing in a directory which the user may not write is
// made by a mirror: a small temporary filesystem with every entry of that
// directory mounted or linked, put in its place. An overlay would need no list,
// but would also catch what the program writes further down, in directories
// that are its user's own, and lose it.
type builder struct {
	work     *os.File // root of the temporary filesystem that holds all mirrors
	mirrors  int
	mirrored map[string]string // directory -> its mirror
}

// plan is one mount with its source held open, so that no later mount can hide it.
type plan struct {
	Mount
	source *os.File
	isDir  bool
}

func mountAll(mounts []Mount, dir string) *Failure {
	fail := func(doing string, err error) *Failure {
		return &Failure{Kind: "stage", Message: doing + ": " + err.Error()}
	}
	// Mounts of the node still arrive (automounter); ours never leave.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fail("make mounts private", err)
	}
	old, err := os.Open("/")
	if err != nil {
		return fail("open root", err)
	}
	defer old.Close()
	if err := unix.Mount("isthmus", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return fail("mount temporary filesystem", err)
	}
	b := &builder{mirrored: map[string]string{}}
	if b.work, err = os.Open(dir); err != nil {
		return fail("open temporary filesystem", err)
	}
	defer b.work.Close()

	plans := make([]plan, 0, len(mounts))
	for _, m := range mounts {
		p := plan{Mount: m}
		source, err := openSource(m)
		if err == nil {
			p.source = source
			defer p.source.Close()
			var st fs.FileInfo
			if st, err = p.source.Stat(); err == nil {
				p.isDir = st.IsDir()
				plans = append(plans, p)
				continue
			}
		}
		if !m.Optional {
			return &Failure{Kind: "mount", Field: m.Field, Message: fmt.Sprintf("source of %s: %v", m.Target, err)}
		}
	}
	slices.SortStableFunc(plans, func(a, b plan) int {
		return cmp.Compare(strings.Count(filepath.Clean(a.Target), "/"), strings.Count(filepath.Clean(b.Target), "/"))
	})
	pivoted, err := b.newRoot(plans)
	if err != nil {
		return fail("make a root directory with new entries", err)
	}
	for _, p := range plans {
		if err := b.mount(p); err != nil && !p.Optional {
			return &Failure{Kind: "mount", Field: p.Field, Message: fmt.Sprintf("%s cannot be mounted: %v", p.Target, err)}
		}
	}
	// What is left of our own is of no use to the program.
	if pivoted {
		if err := old.Chdir(); err != nil {
			return fail("leave the old root", err)
		}
		if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
			return fail("detach the old root", err)
		}
	} else {
		_ = unix.Unmount(path(b.work), unix.MNT_DETACH) // merely untidy when it stays
	}
	if err := os.Chdir("/"); err != nil {
		return fail("go to the root", err)
	}
	return nil
}

// openSource opens what a mount is to show.
func openSource(m Mount) (*os.File, error) {
	source, err := safepath.Open(m.Source, m.Within)
	if err == nil && m.Sub != "" {
		dir := source
		source, err = safepath.Beneath(dir, m.Sub)
		_ = dir.Close() // it was only looked up
	}
	return source, err
}

// path names an open file for a system call that wants a path.
func path(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// newRoot replaces the root directory when a mount needs a new entry there. It
// reports whether it did.
func (b *builder) newRoot(plans []plan) (bool, error) {
	missing := map[string]bool{} // name -> is a directory
	for _, p := range plans {
		first, rest, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(p.Target), "/"), "/")
		if first == "" {
			return false, errors.New("the root directory itself is no mount path of this runtime")
		}
		if _, err := os.Lstat("/" + first); errors.Is(err, fs.ErrNotExist) {
			missing[first] = missing[first] || rest != "" || p.isDir
		}
	}
	if len(missing) == 0 {
		return false, nil
	}
	dir, err := b.mirror("/")
	if err != nil {
		return false, err
	}
	for name, isDir := range missing {
		if err := makeEntry(filepath.Join(dir, name), isDir); err != nil {
			return false, err
		}
	}
	if err := os.Chdir(dir); err != nil {
		return false, err
	}
	// The old root ends up stacked on the new one, out of sight for paths, and is
	// detached once no source in it is needed any more.
	if err := unix.PivotRoot(".", "."); err != nil {
		return false, fmt.Errorf("pivot root: %w", err)
	}
	return true, nil
}

// mount shows p's source at its target.
func (b *builder) mount(p plan) error {
	target, err := b.ensure(filepath.Clean(p.Target), p.isDir)
	if err != nil {
		return err
	}
	st, err := os.Stat(target)
	if err != nil {
		return err
	}
	if st.IsDir() != p.isDir {
		return errors.New("source and mount path are not of one kind (file or directory)")
	}
	if err := unix.Mount(path(p.source), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if !p.ReadOnly {
		return nil
	}
	return readOnly(target)
}

// readOnly makes a mount read-only. Flags that the node's mount already has are
// locked and must be repeated.
func readOnly(target string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return fmt.Errorf("look at mount: %w", err)
	}
	keep := uintptr(fs.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
	if fs.Flags&unix.ST_RELATIME != 0 {
		keep |= unix.MS_RELATIME
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|keep, ""); err != nil {
		return fmt.Errorf("make read-only: %w", err)
	}
	return nil
}

// ensure makes the mount point when it is missing and gives its real path.
func (b *builder) ensure(target string, isDir bool) (string, error) {
	if _, err := os.Stat(target); err == nil {
		return filepath.EvalSymlinks(target)
	}
	parent, name := filepath.Dir(target), filepath.Base(target)
	if parent == target {
		return "", errors.New("no such directory")
	}
	if _, err := os.Stat(parent); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		made, err := b.ensure(parent, true)
		if err != nil {
			return "", err
		}
		parent = made
	}
	parent, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return "", err
	}
	full := filepath.Join(parent, name)
	err = makeEntry(full, isDir)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		if _, done := b.mirrored[parent]; done || parent == "/" || b.work == nil {
			return "", err
		}
		dir, merr := b.mirror(parent)
		if merr != nil {
			return "", merr
		}
		if err = makeEntry(filepath.Join(dir, name), isDir); err != nil {
			return "", err
		}
		if err := unix.Mount(dir, parent, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return "", fmt.Errorf("put mirror in the place of %s: %w", parent, err)
		}
		b.mirrored[parent] = dir
	}
	if err != nil {
		return "", err
	}
	return full, nil
}

func makeEntry(name string, isDir bool) error {
	var err error
	if isDir {
		err = os.Mkdir(name, 0o755)
	} else {
		var f *os.File
		if f, err = os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o644); err == nil {
			err = f.Close()
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// mirror rebuilds dir in the temporary filesystem and gives the path of the copy,
// which is a mount point.
func (b *builder) mirror(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("mirror %s: %w", dir, err)
	}
	if len(entries) > maxMirror {
		return "", fmt.Errorf("mirror %s: %d entries are too many", dir, len(entries))
	}
	b.mirrors++
	copied := filepath.Join(path(b.work), strconv.Itoa(b.mirrors))
	if err := os.Mkdir(copied, 0o755); err != nil {
		return "", fmt.Errorf("mirror %s: %w", dir, err)
	}
	if err := unix.Mount(copied, copied, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mirror %s: %w", dir, err)
	}
	// Else a copy of the directory that holds our own mount would hold it again.
	if err := unix.Mount("", path(b.work), "", unix.MS_UNBINDABLE, ""); err != nil {
		return "", fmt.Errorf("mirror %s: %w", dir, err)
	}
	for _, e := range entries {
		from, to := filepath.Join(dir, e.Name()), filepath.Join(copied, e.Name())
		if e.Type()&fs.ModeSymlink != 0 {
			text, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(text, to)
			}
			if err != nil {
				return "", fmt.Errorf("mirror %s: %w", from, err)
			}
			continue
		}
		if err := makeEntry(to, e.IsDir()); err != nil {
			return "", fmt.Errorf("mirror %s: %w", from, err)
		}
		// What cannot be mounted (a socket that has just gone) stays an empty entry.
		_ = unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	}
	if err := unix.Mount("", path(b.work), "", unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("mirror %s: %w", dir, err)
	}
	return copied, nil
}
