// Package rootpath resolves paths as a program sees them whose root directory is
// some directory of the node: links are followed, and none leads out.
package rootpath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks bounds the links of one path, as the kernel does.
const maxLinks = 40

// ErrLinks is the error for a path of too many links.
var ErrLinks = errors.New("too many symbolic links")

// FS is what Resolve looks at: os.Root is one.
type FS interface {
	Lstat(name string) (fs.FileInfo, error)
	Readlink(name string) (string, error)
}

// Resolve gives the path relative to root, without links, that name stands for
// when root is the root directory. Elements that do not exist are taken as they
// are. The last element's link is followed only with last. The result never has
// ".." and is "." for the root itself.
//
// The answer holds for as long as nobody changes the tree; whoever opens it must
// do so beneath root.
func Resolve(root FS, name string, last bool) (string, error) {
	rest := elements(name)
	var done []string
	links := 0
	for len(rest) > 0 {
		e := rest[0]
		rest = rest[1:]
		if e == ".." {
			if len(done) > 0 {
				done = done[:len(done)-1]
			}
			continue
		}
		at := filepath.Join(append(done, e)...)
		st, err := root.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (st.Mode()&fs.ModeSymlink == 0 || len(rest) == 0 && !last) {
			done = append(done, e)
			continue
		}
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: ErrLinks}
		}
		text, err := root.Readlink(at)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(text) {
			done = nil
		}
		rest = append(elements(text), rest...)
	}
	if len(done) == 0 {
		return ".", nil
	}
	return filepath.Join(done...), nil
}

// In is Resolve for a directory given by name; it opens nothing beneath.
func In(dir, name string, last bool) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	rel, err := Resolve(root, name, last)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, rel), nil
}

func elements(name string) []string {
	var out []string
	for e := range strings.SplitSeq(name, "/") {
		if e != "" && e != "." {
			out = append(out, e)
		}
	}
	return out
}
