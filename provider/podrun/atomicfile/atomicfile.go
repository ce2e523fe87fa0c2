// Package atomicfile writes small files so that a reader on another host sees
// the old contents or the new ones and nothing else, and reads them without
// being led astray by what a user may have put in their place.
package atomicfile

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrTooLarge says that a file is above the limit given to Read.
var ErrTooLarge = errors.New("file is larger than allowed")

// Write puts data at name beneath root by a synced temporary file and a rename.
// The file's mode is 0600. It may be repeated.
func Write(root *os.Root, name string, data []byte) error {
	tmp := path.Join(path.Dir(name), "."+path.Base(name)+"."+suffix())
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", tmp, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // the write's own error is the one to report
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// WriteJSON is Write of v's JSON.
func WriteJSON(root *os.Root, name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	return Write(root, name, data)
}

// Open opens a regular file beneath root for reading. It never follows a
// symbolic link in the last place and never blocks on a pipe.
func Open(root *os.Root, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Read gives the contents of a regular file beneath root of at most limit bytes.
func Read(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := Open(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w (%d bytes)", name, ErrTooLarge, limit)
	}
	return data, nil
}

// ReadJSON decodes a regular file beneath root of at most limit bytes into v.
func ReadJSON(root *os.Root, name string, limit int64, v any) error {
	data, err := Read(root, name, limit)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", name, err)
	}
	return nil
}

// Names lists a directory beneath root, in no order.
func Names(root *os.Root, dir string) ([]string, error) {
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

// Numbers lists a directory beneath root whose entries are numbered from 1: the
// numbers, in order, and none when there is no directory. Other names are passed over.
func Numbers(root *os.Root, dir string) ([]int, error) {
	names, err := Names(root, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n > 0 && strconv.Itoa(n) == name {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// suffix is a name that no other writer has.
func suffix() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails on Linux
	return hex.EncodeToString(b[:])
}
