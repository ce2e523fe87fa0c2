package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/expand"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
	"github.com/isthmus-hpc/isthmus/provider/podrun/safepath"
)

// sharedMemory is where volumes of medium Memory go.
const sharedMemory = "/dev/shm"

// scratch is the pod's private space on the node, removed when the pod has ended.
type scratch struct {
	dir    string // below TMPDIR
	memory string // below sharedMemory, "" until wanted
	brief  string // of a short path, "" until wanted
	key    string
}

// newScratch makes the private directory. Its random name and mode keep it from
// other users of the node.
func newScratch(tmp, key string) (*scratch, error) {
	s := &scratch{key: key}
	for _, parent := range []string{tmp, os.TempDir(), "/tmp", "/var/tmp", sharedMemory} {
		if parent == "" || !filepath.IsAbs(parent) {
			continue
		}
		dir, err := os.MkdirTemp(parent, "isthmus-"+key+"-")
		if err == nil {
			s.dir = dir
			break
		}
	}
	if s.dir == "" {
		return nil, errors.New("no directory for scratch space on this node: TMPDIR and /tmp are not writable")
	}
	for _, d := range []string{"volumes", "termination", "mnt", "work"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make scratch space: %w", err)
		}
	}
	return s, nil
}

func (s *scratch) mountDir() string { return filepath.Join(s.dir, "mnt") }
func (s *scratch) workDir() string  { return filepath.Join(s.dir, "work") }

// terminationFile makes the empty file for a container run's message.
func (s *scratch) terminationFile(name string, restart int32) (string, error) {
	file := filepath.Join(s.dir, "termination", name+"."+strconv.Itoa(int(restart)))
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	return file, f.Close()
}

func (s *scratch) memoryDir() string {
	if s.memory != "" {
		return s.memory
	}
	dir, err := os.MkdirTemp(sharedMemory, "isthmus-"+s.key+"-")
	if err != nil {
		return filepath.Join(s.dir, "volumes") // a disk is slower, but it is there
	}
	s.memory = dir
	return dir
}

// briefDir is a directory of a short path, for programs that name sockets in
// there. It is made at the first call.
func (s *scratch) briefDir() (string, error) {
	if s.brief != "" {
		return s.brief, nil
	}
	var err error
	for _, parent := range []string{"/tmp", sharedMemory, "/var/tmp"} {
		if s.brief, err = os.MkdirTemp(parent, "isthmus-"); err == nil {
			return s.brief, nil
		}
	}
	return "", fmt.Errorf("make scratch space: %w", err)
}

// remove deletes everything, also what a program has made unwritable.
func (s *scratch) remove() error {
	var errs []error
	for _, dir := range []string{s.dir, s.memory, s.brief} {
		if dir == "" {
			continue
		}
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// removeTree removes a directory even when a program has made parts of it
// unwritable.
func removeTree(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // the removal below reports what is left
			if err != nil {
				return fs.SkipDir
			}
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// volume is one prepared volume.
type volume struct {
	path     string
	readOnly bool     // whatever the mount says
	limit    int64    // of an emptyDir in bytes, 0 for none
	memory   bool     // an emptyDir of medium Memory
	beneath  []string // directories of which one must hold what path leads to
}

// prepareVolumes makes the pod's volumes. live gives the directory of one whose
// files are kept up to date.
func prepareVolumes(p *manifest.Pod, s *scratch, live func(name string) string) (map[string]volume, error) {
	group := -1
	if sc := p.Pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		group = int(*sc.FSGroup)
	}
	out := map[string]volume{}
	for name, v := range p.Volumes {
		if !isLabel(name) {
			return nil, fmt.Errorf("volume %q: not a valid name", name)
		}
		var made volume
		var err error
		switch v.Kind {
		case "files":
			made = volume{path: live(name), readOnly: true}
		case "emptyDir":
			made = volume{path: filepath.Join(s.dir, "volumes", name), limit: v.SizeBytes}
			err = makeOpen(made.path, group)
		case "memory":
			made = volume{path: filepath.Join(s.memoryDir(), name), limit: v.SizeBytes, memory: true}
			err = makeOpen(made.path, group)
		case "hostPath":
			made = volume{path: filepath.Clean(v.Path), readOnly: v.ReadOnly, beneath: v.Beneath}
			err = checkHostPath(made.path, v)
		default:
			err = fmt.Errorf("kind %q is not supported by this runner", v.Kind)
		}
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", name, err)
		}
		out[name] = made
	}
	return out, nil
}

// makeOpen makes a directory that every program may write, as an emptyDir is.
// Its parent keeps others out.
func makeOpen(dir string, group int) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	mode := fs.FileMode(0o777)
	if group >= 0 {
		if err := os.Lchown(dir, -1, group); err != nil {
			return fmt.Errorf("give it to group %d (spec.securityContext.fsGroup): %w", group, err)
		}
		mode |= fs.ModeSetgid
	}
	return os.Chmod(dir, mode)
}

// mounts gives the mounts of one container's volumeMounts. at is the container's
// field path.
func mounts(c *corev1.Container, at string, volumes map[string]volume, e environment, namespaces bool) ([]stage.Mount, error) {
	var out []stage.Mount
	for i, m := range c.VolumeMounts {
		field := fmt.Sprintf("%s.volumeMounts[%d]", at, i)
		v, ok := volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("%s.name: there is no volume %q", field, m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand.String(m.SubPathExpr, e.lookup)
		}
		if sub != "" {
			var err error
			if sub, err = subPath(v, sub); err != nil {
				return nil, fmt.Errorf("%s.subPath: %w", field, err)
			}
		}
		if !filepath.IsAbs(m.MountPath) {
			return nil, fmt.Errorf("%s.mountPath: %q is not absolute", field, m.MountPath)
		}
		readOnly := m.ReadOnly || v.readOnly
		if !namespaces {
			if filepath.Clean(m.MountPath) == filepath.Join(v.path, sub) && !readOnly {
				continue // it is in its place already
			}
			return nil, fmt.Errorf("%s.mountPath: %s cannot be provided, since this node lets users make no namespaces", field, m.MountPath)
		}
		out = append(out, stage.Mount{Source: v.path, Within: v.beneath, Sub: sub, Target: m.MountPath, ReadOnly: readOnly, Field: field + ".mountPath"})
	}
	return out, nil
}

// subPath cleans a path inside a volume; a missing one is made a directory, as
// the kubelet does. Links may not lead out of the volume; the stage that mounts
// looks again.
func subPath(v volume, sub string) (string, error) {
	sub = filepath.Clean(sub)
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("%q leads out of the volume", sub)
	}
	dir, err := safepath.Open(v.path, v.beneath)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	root, err := os.OpenRoot(safepath.Named(dir))
	if err != nil {
		return "", err
	}
	defer root.Close()
	_, err = root.Stat(sub)
	if errors.Is(err, fs.ErrNotExist) && !v.readOnly {
		err = makeAll(root, sub)
	}
	if err != nil {
		return "", err
	}
	return sub, nil
}

// makeAll makes a directory and those above it, with the mode of the volume itself
// whatever the umask, as the kubelet does.
func makeAll(root *os.Root, name string) error {
	st, err := root.Stat(".")
	if err != nil {
		return err
	}
	mode := st.Mode() & (fs.ModePerm | fs.ModeSetgid)
	elements := strings.Split(name, "/")
	for i := range elements {
		part := filepath.Join(elements[:i+1]...)
		switch err := root.Mkdir(part, 0o700); {
		case errors.Is(err, fs.ErrExist): // also one of another container that starts beside this one
		case err != nil:
			return err
		default:
			if err := root.Chmod(part, mode); err != nil {
				return err
			}
		}
	}
	return nil
}

// usage is the sum of the files of a volume in bytes.
func usage(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				sum += st.Size()
			}
		}
		return nil // what vanishes while we look counts nothing
	})
	return sum
}

// readMessage reads the last 4096 bytes of a termination message, and takes away
// what is not UTF-8, which the API could not carry.
func readMessage(file string) string {
	root, err := os.OpenRoot(filepath.Dir(file))
	if err != nil {
		return ""
	}
	defer root.Close()
	f, err := atomicfile.Open(root, filepath.Base(file))
	if err != nil {
		return ""
	}
	defer f.Close()
	const most = 4096
	var from int64
	if info, err := f.Stat(); err == nil {
		from = max(0, info.Size()-most)
	}
	buf := make([]byte, most)
	n, _ := f.ReadAt(buf, from) // the end of the file is as good as any error
	return strings.ToValidUTF8(string(buf[:n]), "")
}
