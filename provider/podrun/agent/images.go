package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
)

const (
	imagesEvery = time.Hour        // between two looks at a store
	imagesTime  = 10 * time.Second // of one look; the next goes on
	maxRecord   = 1 << 20          // of a gang's note of an image in bytes
	imagesDir   = "images"
	stamp       = ".collected"
)

// CollectImages removes images beyond the limits from a user's store, "" for the
// one beneath dir, at most once an hour and for a few seconds. An image that a
// gang's directory names is kept: its pods run, or wait for their hosts.
func CollectImages(ctx context.Context, dir, store string, l image.Limits) error {
	if l == (image.Limits{}) {
		return nil
	}
	if store == "" {
		store = filepath.Join(dir, imagesDir)
	}
	if !path.IsAbs(store) || path.Clean(store) != store {
		return fmt.Errorf("image store %q is not a clean absolute path: %w", store, ErrInvalid)
	}
	mark := filepath.Join(store, stamp)
	if st, err := os.Lstat(mark); err == nil && time.Since(st.ModTime()) < imagesEvery {
		return nil
	}
	if _, err := os.Stat(store); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	root, err := openBase(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	needed, err := neededImages(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, imagesTime)
	defer cancel()
	s := &image.Store{Dir: store}
	defer s.Close()
	if _, err := s.Collect(ctx, l, func(digest string) bool { return needed[digest] }); err != nil {
		return fmt.Errorf("collect images: %w", err)
	}
	if ctx.Err() != nil {
		return nil // the next collection goes on
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil { //nolint:gosec // in the user's own store, as the user
		return fmt.Errorf("collect images: %w", err)
	}
	now := time.Now()
	return os.Chtimes(mark, now, now) // writing nothing changes no time
}

// neededImages are the digests that the gangs' directories name.
func neededImages(root *os.Root) (map[string]bool, error) {
	needed := map[string]bool{}
	keys, err := atomicfile.Names(root, gangsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return needed, nil
	}
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if !keyPattern.MatchString(key) {
			continue
		}
		dir := path.Join(gangsDir, key, imagesDir)
		names, err := atomicfile.Names(root, dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err // whose images are unknown, all may be in use
		}
		for _, name := range names {
			if !strings.HasSuffix(name, ".json") {
				continue
			}
			data, err := atomicfile.Read(root, path.Join(dir, name), maxRecord)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read gang's images: %w", err)
			}
			if d := image.Digest(data); d != "" {
				needed[d] = true
			}
		}
	}
	return needed, nil
}
