package agent

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

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

// drain reads what the caller sends, so that it does not see a broken pipe.
func drain(in io.Reader) error {
	if _, err := io.Copy(io.Discard, io.LimitReader(in, maxArchive)); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	return nil
}
