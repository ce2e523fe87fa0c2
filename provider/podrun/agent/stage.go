package agent

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a staged gang.
const (
	maxArchive = 128 << 20 // of the tar in bytes
	maxFiles   = 50_000
	maxDepth   = 32
	maxName    = 255 // of one path element in bytes
)

// litterAge is when an unfinished or removed directory is nobody's any more.
const litterAge = time.Hour

var digestPattern = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// Stage unpacks the tar read from in as the gang directory key beneath dir, with
// a link to exe, this very program. It is all or nothing. A gang directory that
// is there already is success and stays as it is. digest is the caller's SHA-256
// of exe in hexadecimal, or ""; it saves reading a program that is installed.
func Stage(dir, key string, in io.Reader, exe, digest string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := openBase(dir, true)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{gangsDir, binDir} {
		if err := root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make %s: %w", d, err)
		}
	}
	if _, err := root.Lstat(gangPath(key)); err == nil {
		return drain(in)
	}
	bin, err := install(root, exe, digest)
	if err != nil {
		return err
	}
	tmp := path.Join(gangsDir, staging+randomName())
	if err := root.Mkdir(tmp, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", tmp, err)
	}
	err = unpack(root, tmp, in)
	if err == nil {
		err = root.Symlink("../../"+bin, path.Join(tmp, "podrun"))
	}
	if err == nil {
		err = syncTree(root, tmp)
	}
	if err == nil {
		err = root.Rename(tmp, gangPath(key))
	}
	if err == nil {
		syncDir(root, gangsDir)
		return nil
	}
	rerr := removeTree(root, tmp)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return rerr // another stage of the same gang was first
	}
	return errors.Join(err, rerr)
}

// drain reads what the caller sends, so that it does not see a broken pipe.
func drain(in io.Reader) error {
	if _, err := io.Copy(io.Discard, io.LimitReader(in, maxArchive)); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	return nil
}

// install puts the program exe into bin once and gives its path beneath root.
func install(root *os.Root, exe, digest string) (string, error) {
	in, err := os.Open(exe)
	if err != nil {
		return "", fmt.Errorf("open the pod runner: %w", err)
	}
	defer in.Close()
	if digestPattern.MatchString(digest) {
		name := path.Join(binDir, "podrun-"+digest[:12])
		if st, err := in.Stat(); err == nil && installed(root, name, st.Size()) {
			return name, nil
		}
	}
	hash := sha256.New()
	size, err := io.Copy(hash, in)
	if err != nil {
		return "", fmt.Errorf("read the pod runner: %w", err)
	}
	name := path.Join(binDir, "podrun-"+hex.EncodeToString(hash.Sum(nil))[:12])
	if installed(root, name, size) {
		return name, nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("read the pod runner: %w", err)
	}
	tmp := path.Join(binDir, staging+randomName())
	out, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o700)
	if err != nil {
		return "", fmt.Errorf("install the pod runner: %w", err)
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // the first error is the one to report
		return "", fmt.Errorf("install the pod runner: %w", err)
	}
	return name, nil
}

// installed reports whether name is a program of that size: the rename that put
// it there came after all of it was written.
func installed(root *os.Root, name string, size int64) bool {
	st, err := root.Lstat(name)
	return err == nil && st.Mode().IsRegular() && st.Size() == size && st.Mode().Perm()&0o500 == 0o500
}

// unpack writes a tar of directories and regular files beneath tmp.
func unpack(root *os.Root, tmp string, in io.Reader) error {
	counted := &counter{in: io.LimitReader(in, maxArchive+1)}
	r := tar.NewReader(counted)
	for files := 0; ; files++ {
		before := counted.n
		h, err := r.Next()
		if counted.n > maxArchive {
			return fmt.Errorf("archive is larger than %d bytes: %w", maxArchive, ErrInvalid)
		}
		if errors.Is(err, io.EOF) {
			// Only the two zero blocks of an archive's end tell it from one that was
			// cut off between two entries.
			if counted.n-before < 1024 {
				return fmt.Errorf("archive is cut short: %w", ErrInvalid)
			}
			return drain(counted)
		}
		if err != nil {
			return fmt.Errorf("read archive: %w: %w", err, ErrInvalid)
		}
		if files == maxFiles {
			return fmt.Errorf("archive has more than %d entries: %w", maxFiles, ErrInvalid)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return err
		}
		target := path.Join(tmp, name)
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(target, 0o700); err != nil {
				return fmt.Errorf("unpack: %w", err)
			}
		case tar.TypeReg:
			if err := unpackFile(root, target, r); err != nil {
				return err
			}
		default:
			return fmt.Errorf("archive entry %q is neither a file nor a directory: %w", h.Name, ErrInvalid)
		}
	}
}

func unpackFile(root *os.Root, target string, r io.Reader) error {
	if err := root.MkdirAll(path.Dir(target), 0o700); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	f, err := root.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("archive has %q twice: %w", target, ErrInvalid)
	}
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	_, err = io.Copy(f, r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("archive is cut short: %w", ErrInvalid)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("unpack %s: %w", target, err)
	}
	return nil
}

// cleanName refuses what is not a plain path beneath the gang directory.
func cleanName(name string) (string, error) {
	clean := strings.TrimSuffix(name, "/")
	bad := clean == "" || !filepath.IsLocal(clean) || path.Clean(clean) != clean || clean == "." || clean == "podrun" ||
		strings.HasPrefix(clean, "podrun/") || strings.ContainsRune(clean, 0)
	elements := strings.Split(clean, "/")
	bad = bad || len(elements) > maxDepth
	for _, e := range elements {
		bad = bad || len(e) > maxName
	}
	if bad {
		return "", fmt.Errorf("archive entry %.300q is not a plain relative path: %w", name, ErrInvalid)
	}
	return clean, nil
}

// counter counts what was read.
type counter struct {
	in io.Reader
	n  int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

// syncTree makes a small tree durable file by file and a large one at once.
func syncTree(root *os.Root, dir string) error {
	const few = 64
	var names []string
	err := fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Type().IsRegular() {
			names = append(names, p)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("walk %s: %w", dir, err)
	}
	if len(names) > few {
		f, err := root.Open(dir)
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		defer f.Close()
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return fmt.Errorf("sync filesystem: %w", err)
		}
		return nil
	}
	for _, name := range names {
		f, err := root.Open(name)
		if err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		err = f.Sync()
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("sync %s: %w", name, err)
		}
	}
	return nil
}

// syncDir makes a rename durable where the filesystem knows how to.
func syncDir(root *os.Root, dir string) {
	if f, err := root.Open(dir); err == nil {
		_ = f.Sync() // not every filesystem can
		_ = f.Close()
	}
}

// Remove removes a gang directory, and what interrupted verbs have left. A
// missing one is success.
func Remove(dir, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := openBase(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	gone := path.Join(gangsDir, trash+randomName())
	switch err := root.Rename(gangPath(key), gone); {
	case err == nil:
		if err := removeTree(root, gone); err != nil {
			return fmt.Errorf("remove gang: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("remove gang: %w", err)
	}
	sweep(root, time.Now())
	return nil
}

// sweep removes litter: directories that a killed verb has left long ago.
func sweep(root *os.Root, now time.Time) {
	names, err := listDir(root, gangsDir)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, staging) && !strings.HasPrefix(name, trash) {
			continue
		}
		full := path.Join(gangsDir, name)
		if st, err := root.Lstat(full); err == nil && now.Sub(st.ModTime()) > litterAge {
			_ = removeTree(root, full) // the next sweep tries again
		}
	}
}

func listDir(root *os.Root, dir string) ([]string, error) {
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	return names, nil
}
