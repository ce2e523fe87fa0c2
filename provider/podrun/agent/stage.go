package agent

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Bounds of a staged gang.
const (
	maxArchive = 128 << 20 // of the tar in bytes
	maxFiles   = 50_000
	maxDepth   = 32
	maxName    = 255 // of one path element in bytes
)

// litterAge is when an unfinished or removed directory is nobody's any more: no
// caller waits for a verb that long.
const litterAge = 15 * time.Minute

var digestPattern = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// maxGangs bounds one call of Stage.
const maxGangs = 1024

// arrival is a gang on its way to its place.
type arrival struct {
	key   string
	tmp   string // beneath the root; "" when there is nothing to put in place
	files int
	err   error
}

// Stage reads gangs from in, each a manifest.StageHeader as one line of JSON and
// the tar of that many bytes, and unpacks each as a gang directory beneath dir,
// with a link to exe, this very program. It writes one manifest.Answer a
// gang to out, in order, as lines of JSON. Each gang is all or nothing and its
// failure is its own; a gang directory that is there already is success and
// stays as it is. The error is about all gangs that have no answer. digest is
// the caller's SHA-256 of exe in hexadecimal, or ""; it saves reading a program
// that is installed.
func Stage(dir string, in io.Reader, exe, digest string, out io.Writer) error {
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
	bin, err := install(root, exe, digest)
	if err != nil {
		return err
	}
	gangs, broken := unpackAll(root, in, bin)
	place(root, gangs)
	enc := json.NewEncoder(out)
	for _, g := range gangs {
		answer := manifest.Answer{Key: g.key, Code: Code(g.err)}
		if g.err != nil {
			answer.Error = g.err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return broken
}

// unpackAll unpacks every gang of in under a name of its own. The error says why
// it stopped before the end of in.
func unpackAll(root *os.Root, in io.Reader, bin string) ([]arrival, error) {
	lines := bufio.NewReaderSize(in, 4<<10)
	var gangs []arrival
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return gangs, nil
		}
		if err != nil {
			return gangs, fmt.Errorf("read header %d: %w: %w", len(gangs)+1, err, ErrInvalid)
		}
		if len(gangs) == maxGangs {
			return gangs, fmt.Errorf("more than %d gangs: %w", maxGangs, ErrInvalid)
		}
		var header manifest.StageHeader
		if err := json.Unmarshal(line, &header); err != nil || header.Bytes < 0 || header.Bytes > maxArchive {
			return gangs, fmt.Errorf("header %d is %.200q: %w", len(gangs)+1, line, ErrInvalid)
		}
		body := &io.LimitedReader{R: lines, N: header.Bytes}
		g := arrival{key: header.Key}
		g.tmp, g.files, g.err = unpackGang(root, header, body, bin)
		gangs = append(gangs, g)
		if _, err := io.Copy(io.Discard, body); err != nil {
			return gangs, fmt.Errorf("read archive: %w", err)
		}
		if body.N > 0 {
			last := &gangs[len(gangs)-1]
			last.err = errors.Join(last.err, fmt.Errorf("the archive is cut short: %w", ErrInvalid))
			return gangs, nil
		}
	}
}

// unpackGang unpacks one gang; tmp is "" when its directory is there already.
func unpackGang(root *os.Root, header manifest.StageHeader, body io.Reader, bin string) (tmp string, files int, err error) {
	if err := checkKey(header.Key); err != nil {
		return "", 0, err
	}
	if _, err := root.Lstat(gangPath(header.Key)); err == nil {
		return "", 0, nil
	}
	tmp = path.Join(gangsDir, staging+header.Key+"-"+randomName())
	if err := root.Mkdir(tmp, 0o700); err != nil {
		return "", 0, fmt.Errorf("make %s: %w", tmp, err)
	}
	files, err = unpack(root, tmp, body)
	if err == nil {
		err = root.Symlink("../../"+bin, path.Join(tmp, "podrun"))
	}
	return tmp, files, err
}

// place makes what was unpacked durable and gives each gang its name.
func place(root *os.Root, gangs []arrival) {
	total := 0
	for _, g := range gangs {
		total += g.files
	}
	at := -1 // the last gang that was put in place
	whole := false
	if total > fewFiles { // one write-back of everything costs less than one a file
		err := syncFilesystem(root)
		for i := range gangs {
			gangs[i].err = errors.Join(gangs[i].err, err)
		}
		whole = true
	}
	for i := range gangs {
		g := &gangs[i]
		if g.tmp == "" {
			continue
		}
		if g.err == nil && !whole {
			g.err = syncTree(root, g.tmp)
		}
		if g.err == nil {
			if g.err = root.Rename(g.tmp, gangPath(g.key)); g.err == nil {
				at = i
				continue
			}
		}
		rerr := removeTree(root, g.tmp)
		if errors.Is(g.err, fs.ErrExist) || errors.Is(g.err, syscall.ENOTEMPTY) {
			g.err = rerr // another stage of the same gang was first
			continue
		}
		g.err = errors.Join(g.err, rerr)
	}
	if at >= 0 {
		syncDir(root, gangsDir)
	}
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

// unpack writes a tar of directories and regular files beneath tmp, and counts
// its entries.
func unpack(root *os.Root, tmp string, in io.Reader) (int, error) {
	counted := &counter{in: io.LimitReader(in, maxArchive+1)}
	r := tar.NewReader(counted)
	for files := 0; ; files++ {
		before := counted.n
		h, err := r.Next()
		if counted.n > maxArchive {
			return files, fmt.Errorf("archive is larger than %d bytes: %w", maxArchive, ErrInvalid)
		}
		if errors.Is(err, io.EOF) {
			// Only the two zero blocks of an archive's end tell it from one that was
			// cut off between two entries.
			if counted.n-before < 1024 {
				return files, fmt.Errorf("archive is cut short: %w", ErrInvalid)
			}
			return files, drain(counted)
		}
		if err != nil {
			return files, fmt.Errorf("read archive: %w: %w", err, ErrInvalid)
		}
		if files == maxFiles {
			return files, fmt.Errorf("archive has more than %d entries: %w", maxFiles, ErrInvalid)
		}
		name, err := cleanName(h.Name)
		if err != nil {
			return files, err
		}
		target := path.Join(tmp, name)
		switch h.Typeflag {
		case tar.TypeDir:
			if err := root.MkdirAll(target, 0o700); err != nil {
				return files, fmt.Errorf("unpack: %w", err)
			}
		case tar.TypeReg:
			if err := unpackFile(root, target, r); err != nil {
				return files, err
			}
		default:
			return files, fmt.Errorf("archive entry %q is neither a file nor a directory: %w", h.Name, ErrInvalid)
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

// fewFiles are made durable one by one.
const fewFiles = 16

// syncFilesystem makes everything durable that was written to root's file system.
func syncFilesystem(root *os.Root) error {
	f, err := root.Open(gangsDir)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync filesystem: %w", err)
	}
	return nil
}

// syncTree makes a small tree durable file by file.
func syncTree(root *os.Root, dir string) error {
	err := fs.WalkDir(root.FS(), dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
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
	err = removeGang(root, key)
	sweep(root, map[string]bool{key: true}, time.Now())
	return err
}

// RemoveMany is Remove for every key of in, each a manifest.StageHeader as one
// line of JSON. It writes one manifest.Answer a key to out, in order; the
// failure of one is its own. The error is about all keys that have no answer.
func RemoveMany(dir string, in io.Reader, out io.Writer) error {
	root, err := openBase(dir, false)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	keys := map[string]bool{}
	if !missing {
		defer root.Close()
		defer func() { sweep(root, keys, time.Now()) }()
	}
	dec, enc := json.NewDecoder(io.LimitReader(in, maxGangs<<8)), json.NewEncoder(out)
	for range maxGangs {
		var header manifest.StageHeader
		err := dec.Decode(&header)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read keys: %w: %w", err, ErrInvalid)
		}
		if err = checkKey(header.Key); err == nil && !missing {
			keys[header.Key] = true
			err = removeGang(root, header.Key)
		}
		answer := manifest.Answer{Key: header.Key, Code: Code(err)}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return fmt.Errorf("more than %d keys: %w", maxGangs-1, ErrInvalid)
}

func removeGang(root *os.Root, key string) error {
	gone := path.Join(gangsDir, trash+key+"-"+randomName())
	switch err := root.Rename(gangPath(key), gone); {
	case err == nil:
		if err := removeTree(root, gone); err != nil {
			return fmt.Errorf("remove gang: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("remove gang: %w", err)
	}
	return nil
}

// sweep removes litter, the directories that a killed verb has left: those of
// the gangs keys, which are on their way out whatever else is under way, and those
// of any gang that are old.
func sweep(root *os.Root, keys map[string]bool, now time.Time) {
	names, err := listDir(root, gangsDir)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, staging) && !strings.HasPrefix(name, trash) {
			continue
		}
		full := path.Join(gangsDir, name)
		of, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, staging), trash), "-")
		if st, err := root.Lstat(full); err == nil && (keys[of] || now.Sub(st.ModTime()) > litterAge) {
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
