// Package safepath opens what a path leads to and makes sure that it lies where
// it may: the check is made on the open file, so that nobody can put a link in
// the way between check and use.
package safepath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrOutside says that links lead out of the directories that are allowed.
var ErrOutside = errors.New("leads out of what is allowed")

// Open gives a descriptor (O_PATH) of what name leads to, with all links
// followed. It must lie in one of the directories within, or be one of them;
// links in these directories' own names are followed as well. Without any,
// everything is allowed. The error wraps ErrOutside or is of the file system.
func Open(name string, within []string) (*os.File, error) {
	if !filepath.IsAbs(name) {
		return nil, fmt.Errorf("path %q is not absolute", name)
	}
	f, err := openPath(name)
	if err != nil || len(within) == 0 {
		return f, err
	}
	if err := inside(f, within); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Named gives a name by which system calls reach an open file.
func Named(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

func openPath(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// inside compares real paths, as the kernel knows them of open files.
func inside(f *os.File, within []string) error {
	actual, err := os.Readlink(Named(f))
	if err != nil {
		return fmt.Errorf("find the real path of %s: %w", f.Name(), err)
	}
	for _, dir := range within {
		d, err := openPath(dir)
		if err != nil {
			continue
		}
		top, err := os.Readlink(Named(d))
		_ = d.Close()
		if err == nil && (top == "/" || actual == top || strings.HasPrefix(actual, top+"/")) {
			return nil
		}
	}
	return fmt.Errorf("%s is %s: %w (%s)", f.Name(), actual, ErrOutside, strings.Join(within, ", "))
}

// Beneath opens sub inside the open directory, O_PATH where the kernel can. No
// link on the way may lead out of the directory.
func Beneath(dir *os.File, sub string) (*os.File, error) {
	if !filepath.IsLocal(sub) {
		return nil, fmt.Errorf("%q: %w", sub, ErrOutside)
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(int(dir.Fd()), sub, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(dir.Name(), sub)), nil
		case errors.Is(err, unix.EXDEV):
			return nil, fmt.Errorf("%q in %s: %w", sub, dir.Name(), ErrOutside)
		case errors.Is(err, unix.EAGAIN) && try < 100: // something was renamed meanwhile
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
			return beneathByWalking(dir, sub) // a kernel before 5.6, or a filter that does not know the call
		default:
			return nil, &fs.PathError{Op: "openat2", Path: filepath.Join(dir.Name(), sub), Err: err}
		}
	}
}

// beneathByWalking is Beneath for old kernels. It needs the right to read.
func beneathByWalking(dir *os.File, sub string) (*os.File, error) {
	root, err := os.OpenRoot(Named(dir))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.OpenFile(sub, os.O_RDONLY|unix.O_NONBLOCK, 0)
}
