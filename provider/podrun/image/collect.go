package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

const (
	// useGrace is how long an image counts as used after the last word of a user,
	// who gives it every leaseBeat.
	useGrace = 2 * time.Hour
	gone     = ".gone-"
)

// Limits say which images are removed. The zero value keeps all.
type Limits struct {
	// Unused for longer than that they are removed; 0 is never.
	Unused time.Duration
	// Bytes is what the images may take together: beyond it those that have been
	// unused longest are removed; 0 is no limit.
	Bytes int64
}

// Removed is an image that was removed.
type Removed struct {
	Digest string
	Bytes  int64
}

// Digest gives what a record of Ensure's once says that its name stood for, ""
// when it is none.
func Digest(record []byte) string {
	var rec struct{ Digest string }
	if json.Unmarshal(record, &rec) != nil {
		return ""
	}
	return rec.Digest
}

// Collect removes images beyond the limits that nobody uses, the longest unused
// first, and what killed processes have left. needed tells of images that
// somebody will use: a gang that waits for its hosts. An image in use is never
// removed, whatever the limits. Collect may be repeated and may run beside
// anything; it ends early, without an error, when ctx does. A missing store is
// an empty one.
func (s *Store) Collect(ctx context.Context, l Limits, needed func(digest string) bool) ([]Removed, error) {
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	root, err := s.root()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	s.sweep(root, "-") // no image's, so by age alone
	all, total, err := s.stock(root)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var out []Removed
	for _, i := range all {
		if ctx.Err() != nil {
			break
		}
		idle := now.Sub(i.used)
		stale, over := l.Unused > 0 && idle > l.Unused, l.Bytes > 0 && total > l.Bytes
		if !stale && !over || idle < useGrace || needed("sha256:"+i.digest) {
			continue
		}
		ok, err := s.remove(root, i.digest)
		if err != nil {
			return out, err
		}
		if ok {
			total -= i.bytes
			out = append(out, Removed{"sha256:" + i.digest, i.bytes})
		}
	}
	return out, s.forget(root, out)
}

// item is an image of the store.
type item struct {
	digest string // without its algorithm
	used   time.Time
	bytes  int64
}

// stock lists the images, the longest unused first, and says how large they are
// together. On its way it removes what is no image any more.
func (s *Store) stock(root *os.Root) (all []item, total int64, err error) {
	names, err := list(root, ".")
	if err != nil {
		return nil, 0, err
	}
	for _, n := range names {
		if strings.HasPrefix(n, gone) {
			_ = removeAll(root, n) // the next one tries again
		}
	}
	if names, err = list(root, "sha256"); err != nil {
		return nil, 0, err
	}
	for _, n := range names {
		st, err := root.Lstat(path.Join("sha256", n))
		if err != nil || !st.IsDir() {
			continue
		}
		i := item{digest: n, used: st.ModTime()}
		if st, err := root.Lstat(path.Join("uses", n)); err == nil && st.ModTime().After(i.used) {
			i.used = st.ModTime()
		}
		var img Image
		if atomicfile.ReadJSON(root, path.Join("sha256", n, "image.json"), maxRecord, &img) == nil {
			i.bytes = img.Bytes
		}
		all, total = append(all, i), total+i.bytes
	}
	slices.SortFunc(all, func(a, b item) int {
		return cmp.Or(a.used.Compare(b.used), strings.Compare(a.digest, b.digest))
	})
	return all, total, nil
}

// remove removes an image that nobody holds, and says whether it did.
func (s *Store) remove(root *os.Root, digest string) (bool, error) {
	use := path.Join("uses", digest)
	f, err := root.OpenFile(use, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, fmt.Errorf("remove image: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		_ = f.Close() // nothing was written
		return false, nil
	}
	tmp := gone + rand.Text()
	if err == nil || lockless(err) {
		err = root.Rename(path.Join("sha256", digest), tmp)
	}
	if err == nil {
		// Whoever waits for the lock sees that the file is gone, and makes a new one.
		err = root.Remove(use)
	}
	_ = f.Close() // which gives the lock up; nothing was written
	if err != nil {
		return false, fmt.Errorf("remove image: %w", err)
	}
	return true, removeAll(root, tmp)
}

// forget removes what names stood for images that are gone.
func (s *Store) forget(root *os.Root, removed []Removed) error {
	if len(removed) == 0 {
		return nil
	}
	names, err := list(root, "refs")
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, ".") {
			continue // somebody is about to write it
		}
		var rec record
		if atomicfile.ReadJSON(root, path.Join("refs", n), maxRecord, &rec) != nil {
			continue
		}
		if slices.ContainsFunc(removed, func(r Removed) bool { return r.Digest == rec.Digest }) {
			_ = root.Remove(path.Join("refs", n)) // a name without an image only costs a look
		}
	}
	return nil
}

func list(root *os.Root, dir string) ([]string, error) {
	d, err := root.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close() // it was only read
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return names, nil
}

// size is what a directory takes on the disk, in bytes.
func size(root *os.Root, dir string) int64 {
	var total int64
	_ = fs.WalkDir(root.FS(), dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be seen is not counted
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += st.Blocks * 512
			}
		}
		return nil
	})
	return total
}
