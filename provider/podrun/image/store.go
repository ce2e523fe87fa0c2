// Package image gets container images for jobs: it finds what a name stands for,
// fetches it once for all jobs of a user, and keeps it unpacked on the shared
// file system under its digest, from where every runtime runs it.
//
//	<store>/sha256/<digest>/rootfs      the unpacked image
//	<store>/sha256/<digest>/image.json  Image, written before the rename
//	<store>/refs/<hash of name>.json    what a name stood for last
//	<store>/locks/...                   locks of names and digests
//	<store>/uses/<digest>               held, and touched, by those who use the image
//	<store>/.pull-<digest>-<random>     an image in the making
//
// A directory is renamed into place when all of it has been written, so that a
// puller that is killed leaves no half image. Pullers of one image wait for each
// other with locks that end with their holder; where a file system has none,
// more than one may fetch, and the first to finish wins.
package image

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/reference"
)

// Errors of Ensure that no retry mends unless something else changes.
var (
	// ErrInvalidName: the name is no image's.
	ErrInvalidName = errors.New("invalid image name")
	// ErrNeverPull: the image is not there, and the policy is never to pull.
	ErrNeverPull = errors.New("image is not present with pull policy of Never")
)

const (
	maxRecord = 1 << 20
	lockPoll  = 50 * time.Millisecond
	lockSlow  = time.Second
	// litterAge is when an image in the making is nobody's, where no lock says so.
	litterAge = 24 * time.Hour
)

// Mirror replaces a registry by another, host[:port][/path].
type Mirror struct{ Registry, Endpoint string }

// Store is a user's images, and where they come from.
type Store struct {
	// Dir is the store. It is made, 0700, when it is missing.
	Dir         string
	Mirrors     []Mirror
	CAFile      string   // further authorities of registries
	Insecure    []string // registries, host:port, without TLS
	Archives    []string // prefixes beneath which archives may lie
	Credentials []Credential

	mu     sync.Mutex
	leases map[string]*os.File // by digest
}

// Config is what an image says about running it.
type Config struct {
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	Env        []string `json:"env,omitempty"`
	WorkingDir string   `json:"workingDir,omitempty"`
	User       string   `json:"user,omitempty"`
	StopSignal string   `json:"stopSignal,omitempty"`
}

// Image is an image that is there.
type Image struct {
	// Digest of the image's manifest, its name in the store.
	Digest string `json:"digest"`
	Config Config `json:"config"`
	// Bytes is what it takes on the disk.
	Bytes int64 `json:"bytes,omitempty"`
	// Rootfs is its directory; ID is name@digest, as the kubelet reports it.
	Rootfs string `json:"-"`
	ID     string `json:"-"`
}

// record is what a name stood for.
type record struct {
	Name   string    `json:"name"`
	Digest string    `json:"digest"` // of the image
	Named  string    `json:"named"`  // of what the name stands for: an index may lie between
	At     time.Time `json:"at"`
}

// Ensure makes the image be there. It blocks while it is pulled, here or by
// another; it ends with ctx. once is a file in a directory of the gang that
// keeps what the name stands for: so all members, and later starts, run the
// same image and ask the registry once. The image stays until this process ends,
// or Close. The error wraps ErrInvalidName or
// ErrNeverPull, or tells why pulling failed and may be tried again.
func (s *Store) Ensure(ctx context.Context, image string, policy corev1.PullPolicy, once string) (Image, error) {
	ref, err := reference.Parse(image)
	if err != nil {
		return Image{}, fmt.Errorf("%w %q: %w", ErrInvalidName, image, err)
	}
	key, err := s.key(ref)
	if err != nil {
		return Image{}, err
	}
	root, err := s.root()
	if err != nil {
		return Image{}, err
	}
	defer root.Close()
	name := hex.EncodeToString(key[:])
	unlock, err := lock(ctx, root, path.Join("locks", name))
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	var rec record
	if known := readFile(once, &rec); known {
		if img, err := s.present(ctx, root, ref, rec); err == nil {
			return img, nil
		}
		ref.Digest, ref.Tag = rec.Named, "" // gone from the store: the very same again
		if ref.Transport != "" {
			ref.Digest = ""
		}
	} else if policy != corev1.PullAlways || ref.Transport != "" {
		if err := atomicfile.ReadJSON(root, path.Join("refs", name+".json"), maxRecord, &rec); err == nil {
			if img, err := s.present(ctx, root, ref, rec); err == nil {
				return img, writeFile(once, rec)
			}
		}
	}
	if policy == corev1.PullNever && ref.Transport == "" {
		return Image{}, fmt.Errorf("container image %q: %w", image, ErrNeverPull)
	}
	if rec, err = s.pull(ctx, root, ref); err != nil {
		return Image{}, err
	}
	img, err := s.present(ctx, root, ref, rec)
	if err == nil {
		err = atomicfile.WriteJSON(root, path.Join("refs", name+".json"), rec)
	}
	if err == nil {
		err = writeFile(once, rec)
	}
	return img, err
}

// key tells names apart. An archive that was written anew is another one.
func (s *Store) key(ref reference.Reference) ([sha256.Size]byte, error) {
	text := ref.String()
	if ref.Transport != "" {
		real, err := filepath.EvalSymlinks(ref.Path)
		if err != nil {
			return [sha256.Size]byte{}, err
		}
		if !ref.Within(s.Archives) || !reference.Within(real, s.Archives) {
			return [sha256.Size]byte{}, fmt.Errorf("%w %q: it does not lie beneath a directory that the cluster allows archives in", ErrInvalidName, ref.String())
		}
		probe := real
		if ref.Transport == reference.OCI {
			probe = filepath.Join(real, "index.json")
		}
		st, err := os.Stat(probe)
		if err != nil {
			return [sha256.Size]byte{}, err
		}
		text += fmt.Sprintf("\x00%s\x00%d\x00%d", real, st.Size(), st.ModTime().UnixNano())
	}
	return sha256.Sum256([]byte(text)), nil
}

// root opens the store, the user's own directory.
func (s *Store) root() (*os.Root, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make image store: %w", err)
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	st, err := root.Stat(".")
	if err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && (int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0) {
			err = fmt.Errorf("image store %s belongs to user %d with mode %o; it must be user %d's and nobody else's to write", s.Dir, sys.Uid, st.Mode().Perm(), os.Geteuid())
		}
	}
	for _, d := range []string{"sha256", "refs", "locks", "uses"} {
		if err == nil {
			if err = root.Mkdir(d, 0o700); errors.Is(err, fs.ErrExist) {
				err = nil
			}
		}
	}
	if err != nil {
		_ = root.Close() // the first error is the one to report
		return nil, fmt.Errorf("open image store: %w", err)
	}
	return root, nil
}

// present gives an image that is in the store, and keeps it there. The error is
// that it is not, or why that cannot be told.
func (s *Store) present(ctx context.Context, root *os.Root, ref reference.Reference, rec record) (Image, error) {
	hexa, ok := strings.CutPrefix(rec.Digest, "sha256:")
	if !ok || len(hexa) != 64 || strings.ContainsAny(hexa, "/.") {
		return Image{}, fmt.Errorf("%q is no digest", rec.Digest)
	}
	// First held, then looked for: what is found then stays.
	if err := s.hold(ctx, root, hexa); err != nil {
		return Image{}, err
	}
	dir := path.Join("sha256", hexa)
	var img Image
	if err := atomicfile.ReadJSON(root, path.Join(dir, "image.json"), maxRecord, &img); err != nil {
		return Image{}, err
	}
	img.Rootfs, img.ID = filepath.Join(s.Dir, dir, "rootfs"), ref.Name()+"@"+rec.Named
	return img, nil
}

// pull fetches what the name stands for, unless it is there under another name.
func (s *Store) pull(ctx context.Context, root *os.Root, ref reference.Reference) (record, error) {
	work := ".pull-" + rand.Text()
	defer func() { _ = removeAll(root, work) }() // of archives; what stays is swept
	src, err := s.open(ctx, ref, filepath.Join(s.Dir, work))
	if err != nil {
		return record{}, err
	}
	if src.close != nil {
		defer src.close()
	}
	d, err := src.Digest()
	if err != nil {
		return record{}, err
	}
	if d.Algorithm != "sha256" {
		return record{}, fmt.Errorf("digest %s is not sha256", d)
	}
	rec := record{Name: ref.String(), Digest: d.String(), Named: src.digest, At: time.Now().UTC()}
	unlock, err := lock(ctx, root, path.Join("locks", d.Hex))
	if err != nil {
		return record{}, err
	}
	defer unlock()
	if _, err := s.present(ctx, root, ref, rec); err == nil {
		return rec, nil
	}
	return rec, s.fetch(ctx, root, src, d.Hex)
}

// fetch unpacks an image into the store. The caller holds the digest's lock.
func (s *Store) fetch(ctx context.Context, root *os.Root, src *source, digest string) error {
	prefix := ".pull-" + digest[:12] + "-"
	s.sweep(root, prefix)
	tmp := prefix + rand.Text()
	if err := root.MkdirAll(path.Join(tmp, "rootfs"), 0o700); err != nil {
		return err
	}
	err := s.write(ctx, root, src, tmp, "sha256:"+digest)
	if err == nil {
		if f, serr := root.Open(tmp); serr == nil {
			_ = unix.Syncfs(int(f.Fd())) // not every filesystem can
			_ = f.Close()
		}
		err = root.Rename(tmp, path.Join("sha256", digest))
	}
	if err == nil {
		return nil
	}
	rerr := removeAll(root, tmp)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return rerr // another puller was first, where there are no locks
	}
	return errors.Join(err, rerr)
}

func (s *Store) write(ctx context.Context, root *os.Root, src *source, tmp, digest string) error {
	config, err := src.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := src.Layers()
	if err != nil {
		return err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return fmt.Errorf("the image has %d layers and its configuration speaks of %d", len(layers), len(config.RootFS.DiffIDs))
	}
	rootfs, err := root.OpenRoot(path.Join(tmp, "rootfs"))
	if err != nil {
		return err
	}
	defer rootfs.Close()
	for i, l := range layers {
		if err := apply(ctx, rootfs, l, config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	if err := rootfs.Chmod(".", 0o755); err != nil {
		return err
	}
	c := config.Config
	return atomicfile.WriteJSON(root, path.Join(tmp, "image.json"), Image{Digest: digest, Bytes: size(root, tmp), Config: Config{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User, StopSignal: c.StopSignal}})
}

// apply unpacks one layer and checks that it is the one that the image names.
func apply(ctx context.Context, rootfs *os.Root, l v1.Layer, want v1.Hash) error {
	in, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer in.Close()
	// A reader that waits for ever is ended by closing what it reads.
	stalled := time.AfterFunc(stallLimit, func() { _ = in.Close() })
	defer stalled.Stop()
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	r := &checked{in: in, sum: sha256.New(), alive: func() { stalled.Reset(stallLimit) }}
	err = unpack(rootfs, r)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what follows the end of the tar counts for the digest
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	if got := hex.EncodeToString(r.sum.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("its content has the digest sha256:%s, not %s", got, want)
	}
	return nil
}

type checked struct {
	in    io.Reader
	sum   hash.Hash
	alive func()
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if n > 0 {
		c.alive()
		_, _ = c.sum.Write(p[:n]) // never fails
	}
	return n, err
}

// sweep removes what killed pullers of this image have left; the caller's lock
// says that none is alive. Others' leavings must be old.
func (s *Store) sweep(root *os.Root, prefix string) {
	d, err := root.Open(".")
	if err != nil {
		return
	}
	names, err := d.Readdirnames(-1)
	_ = d.Close() // it was only read
	if err != nil {
		return
	}
	for _, n := range names {
		st, err := root.Lstat(n)
		if err != nil || !strings.HasPrefix(n, ".pull-") {
			continue
		}
		if strings.HasPrefix(n, prefix) && locks(root) || time.Since(st.ModTime()) > litterAge {
			_ = removeAll(root, n) // the next puller tries again
		}
	}
}

// readFile reads a record that may not be there.
func readFile(file string, rec *record) bool {
	if file == "" {
		return false
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return false
	}
	defer root.Close()
	return atomicfile.ReadJSON(root, filepath.Base(file), maxRecord, rec) == nil
}

func writeFile(file string, rec record) error {
	if file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return err
	}
	defer root.Close()
	return atomicfile.WriteJSON(root, filepath.Base(file), rec)
}

// Record is the name, beneath a gang's directory, of the file that keeps what an
// image's name stands for.
func Record(image string) string {
	sum := sha256.Sum256([]byte(image))
	return "images/" + hex.EncodeToString(sum[:]) + ".json"
}
