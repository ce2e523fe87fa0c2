package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

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
