// Package projection keeps the files of a directory up to date as a kubelet does
// for ConfigMaps and Secrets: a reader sees all of the old contents or all of
// the new, never some of both. The files lie in a hidden directory of their own,
// "..data" is a link to it, and every name is a link through "..data"; an update
// makes another hidden directory and swaps the one link.
package projection

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

const (
	dataLink = "..data"
	newLink  = "..data_tmp"
	hidden   = "..v-" // how the directories behind dataLink begin
)

// File is one file.
type File struct {
	Data []byte
	Mode fs.FileMode // permission bits
}

// Set is the contents of a directory by relative path. No path has an element
// that begins with "..".
type Set struct {
	Files map[string]File
	// Group owns everything when it is above 0; directories pass it on.
	Group int
}

// Write makes dir beneath root show set, and reports whether that changed
// anything. It may be repeated after any failure or crash; one caller at a time.
func Write(root *os.Root, dir string, set Set) (changed bool, err error) {
	for name := range set.Files {
		if !local(name) {
			return false, fmt.Errorf("file %q: not a plain relative path", name)
		}
	}
	if err := root.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	d, err := root.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := adopt(d, ".", set.Group, 0o755); err != nil {
		return false, err
	}
	current, _ := d.Readlink(dataLink) // without one there is nothing to compare with
	if current == "" || !strings.HasPrefix(current, hidden) || !same(d, current, set) {
		if current, err = swap(d, set); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, tidy(d, current, set)
}

func local(name string) bool {
	if name == "" || path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return false
	}
	return !slices.ContainsFunc(strings.Split(name, "/"), func(e string) bool { return strings.HasPrefix(e, "..") })
}

// same compares what is there with what should be.
func same(d *os.Root, version string, set Set) bool {
	found := 0
	err := fs.WalkDir(d.FS(), version, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		want, ok := set.Files[strings.TrimPrefix(p, version+"/")]
		st, err := e.Info()
		if err != nil {
			return err
		}
		if !ok || !st.Mode().IsRegular() || st.Mode().Perm() != want.Mode.Perm() || st.Size() != int64(len(want.Data)) {
			return errors.New("differs")
		}
		// The mode may keep its own user from reading: then it is written anew.
		data, err := atomicfile.Read(d, p, st.Size())
		if err != nil {
			return err
		}
		if !bytes.Equal(data, want.Data) {
			return errors.New("differs")
		}
		found++
		return nil
	})
	return err == nil && found == len(set.Files)
}

// swap writes a new version and points the link at it.
func swap(d *os.Root, set Set) (string, error) {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails on Linux
	version := hidden + hex.EncodeToString(b[:])
	err := fill(d, version, set)
	if err == nil {
		_ = d.Remove(newLink) // of a swap that did not come to its end
		err = d.Symlink(version, newLink)
	}
	if err == nil {
		err = d.Rename(newLink, dataLink)
	}
	if err != nil {
		_ = d.RemoveAll(version) // the first error is the one to report
		return "", err
	}
	return version, nil
}

func fill(d *os.Root, version string, set Set) error {
	if err := d.Mkdir(version, 0o700); err != nil {
		return err
	}
	if err := adopt(d, version, set.Group, 0o755); err != nil {
		return err
	}
	made := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(set.Files)) {
		var missing []string
		for p := path.Dir(name); !made[p]; p = path.Dir(p) {
			missing = append(missing, p)
			made[p] = true
		}
		slices.Reverse(missing)
		for _, p := range missing {
			full := path.Join(version, p)
			if err := d.Mkdir(full, 0o700); err != nil {
				return err
			}
			if err := adopt(d, full, set.Group, 0o755); err != nil {
				return err
			}
		}
		full := path.Join(version, name)
		f, err := d.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(set.Files[name].Data)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err == nil {
			err = adopt(d, full, set.Group, set.Files[name].Mode.Perm())
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// adopt sets group and mode.
func adopt(d *os.Root, name string, group int, mode fs.FileMode) error {
	if group > 0 {
		if err := d.Lchown(name, -1, group); err != nil {
			return err
		}
	}
	return d.Chmod(name, mode)
}

// tidy makes the links that lead through ..data, and removes those of names
// that are gone and the versions before.
func tidy(d *os.Root, current string, set Set) error {
	tops := map[string]bool{}
	for name := range set.Files {
		top, _, _ := strings.Cut(name, "/")
		tops[top] = true
	}
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close() // it was only read
	if err != nil {
		return err
	}
	for _, name := range names {
		switch {
		case name == dataLink || name == current:
		case tops[name]:
			if to, err := d.Readlink(name); err == nil && to == dataLink+"/"+name {
				delete(tops, name)
				continue
			}
			if err := d.RemoveAll(name); err != nil {
				return err
			}
		default:
			// A version whose file is still mounted somewhere may stay on a network
			// filesystem; the next update tries again.
			_ = d.RemoveAll(name)
		}
	}
	for top := range tops {
		if err := d.Symlink(dataLink+"/"+top, top); err != nil {
			return err
		}
	}
	return nil
}
