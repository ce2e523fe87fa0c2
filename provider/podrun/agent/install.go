package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"

	"golang.org/x/sys/unix"
)

var digestPattern = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

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
