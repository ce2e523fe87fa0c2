package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Refresh unpacks newer contents of volumes for members of a gang, from a tar of
// <rank>/update.json and <rank>/volumes/<name>/... Each member's become a
// directory of pods/<rank>/updates by one rename, numbered above those before
// it; these are removed, but for the last one, which the runner may be reading.
func Refresh(dir, key string, in io.Reader) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := openBase(dir, false)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(gangPath(key)); err != nil {
		return errors.Join(fmt.Errorf("open gang: %w", err), drain(in))
	}
	tmp := path.Join(gangsDir, staging+key+"-"+randomName())
	if err := root.Mkdir(tmp, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", tmp, err)
	}
	_, err = unpack(root, tmp, in)
	if err == nil {
		err = syncTree(root, tmp)
	}
	var ranks []string
	if err == nil {
		ranks, err = atomicfile.Names(root, tmp)
	}
	for _, rank := range ranks {
		if err == nil {
			err = handOver(root, path.Join(tmp, rank), path.Join(gangPath(key), "pods", rank), rank)
		}
	}
	return errors.Join(err, removeTree(root, tmp))
}

// handOver moves one member's update into its place.
func handOver(root *os.Root, from, pod, rank string) error {
	if n, err := strconv.Atoi(rank); err != nil || n < 0 || strconv.Itoa(n) != rank {
		return fmt.Errorf("update for member %q: %w", rank, ErrInvalid)
	}
	if st, err := root.Lstat(path.Join(from, manifest.UpdateFile)); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("update for member %s has no %s: %w", rank, manifest.UpdateFile, ErrInvalid)
	}
	if _, err := root.Lstat(pod); err != nil {
		return fmt.Errorf("update for member %s: %w", rank, err)
	}
	updates := path.Join(pod, manifest.UpdatesDir)
	if err := root.Mkdir(updates, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make %s: %w", updates, err)
	}
	for try := 0; ; try++ {
		serials, err := atomicfile.Numbers(root, updates)
		if err != nil {
			return err
		}
		next := 1
		if len(serials) > 0 {
			next = serials[len(serials)-1] + 1
		}
		err = root.Rename(from, path.Join(updates, strconv.Itoa(next)))
		switch {
		case err == nil:
			syncDir(root, updates)
			for _, old := range serials[:max(0, len(serials)-1)] {
				_ = removeTree(root, path.Join(updates, strconv.Itoa(old))) // the next hand-over tries again
			}
			return nil
		case try == 10 || !errors.Is(err, fs.ErrExist):
			return fmt.Errorf("hand the update for member %s over: %w", rank, err)
		}
	}
}
