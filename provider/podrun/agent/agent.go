// Package agent is the provider's hand on the cluster's filesystem: short verbs
// that run as the mapped user and stage, read and remove that user's gang
// directories. Every path is opened beneath the user's staging root, no verb
// follows a link out of it, and every input is bounded.
package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit codes of the verbs.
const (
	ExitDone     = 0
	ExitOther    = 1
	ExitInvalid  = 3
	ExitNotFound = 4
	ExitAccess   = 5
)

// ErrInvalid is wrapped by errors about the caller's input.
var ErrInvalid = errors.New("invalid input")

// Code gives the exit code for a verb's error.
func Code(err error) int {
	switch {
	case err == nil:
		return ExitDone
	case errors.Is(err, ErrInvalid):
		return ExitInvalid
	case errors.Is(err, fs.ErrNotExist):
		return ExitNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return ExitAccess
	}
	return ExitOther
}

// Directories beneath the root. Names that start with a dot are in the making or
// on their way out, and no gang's.
const (
	gangsDir = "g"
	binDir   = "bin"
	staging  = ".stage-"
	trash    = ".trash-"
)

var keyPattern = regexp.MustCompile(`\A[a-z][a-z0-9]{0,14}\z`)

func checkKey(key string) error {
	if !keyPattern.MatchString(key) {
		return fmt.Errorf("key %q: %w", key, ErrInvalid)
	}
	return nil
}

// openBase opens the user's staging root. It must be the user's own directory
// and no one else's to write.
func openBase(dir string, create bool) (*os.Root, error) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir {
		return nil, fmt.Errorf("root %q is not a clean absolute path: %w", dir, ErrInvalid)
	}
	if create {
		if err := os.MkdirAll(path.Dir(dir), 0o755); err != nil {
			return nil, fmt.Errorf("make staging directory: %w", err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make staging root: %w", err)
		}
	}
	// The last element must be no link; those above it are the administrator's.
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("staging root %s belongs to user %d, not to %d: %w", dir, st.Uid, os.Geteuid(), fs.ErrPermission)
	}
	if st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("staging root %s is writable for others (mode %o): %w", dir, st.Mode&0o777, fs.ErrPermission)
	}
	root, err := os.OpenRoot("/proc/self/fd/" + strconv.Itoa(fd)) // the directory just looked at, whatever the name means by now
	if err != nil {
		return nil, fmt.Errorf("open staging root: %w", err)
	}
	return root, nil
}

// gangPath is a gang's directory beneath the root.
func gangPath(key string) string { return path.Join(gangsDir, key) }

func randomName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails on Linux
	return hex.EncodeToString(b[:])
}

// removeTree removes a directory even when its owner has made parts of it
// unwritable.
func removeTree(root *os.Root, name string) error {
	err := root.RemoveAll(name)
	if err == nil {
		return nil
	}
	sub, oerr := root.OpenRoot(name)
	if oerr != nil {
		return err
	}
	defer sub.Close()
	_ = fs.WalkDir(sub.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = sub.Chmod(p, 0o700) // the removal below reports what is left
			if err != nil {
				return fs.SkipDir
			}
		}
		return nil
	})
	return root.RemoveAll(name)
}
