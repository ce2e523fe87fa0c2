package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/expand"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/host"
)

// sharedMemory is where volumes of medium Memory go.
const sharedMemory = "/dev/shm"

// scratch is the pod's private space on the node, removed when the pod has ended.
type scratch struct {
	dir    string // below TMPDIR
	memory string // below sharedMemory, "" until wanted
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

// remove deletes everything, also what a program has made unwritable.
func (s *scratch) remove() error {
	var errs []error
	for _, dir := range []string{s.dir, s.memory} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(dir); err == nil {
			continue
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
		errs = append(errs, os.RemoveAll(dir))
	}
	return errors.Join(errs...)
}

// volume is one prepared volume.
type volume struct {
	path     string
	readOnly bool  // files of the API are never written by containers
	limit    int64 // of an emptyDir in bytes, 0 for none
}

// prepareVolumes makes the pod's volumes. dir is pods/<rank> beneath gang, and
// abs the same as an absolute path.
func prepareVolumes(gang *os.Root, dir, abs string, p *manifest.Pod, s *scratch, at place) (map[string]volume, error) {
	types := map[string]corev1.HostPathType{}
	for _, v := range p.Pod.Spec.Volumes {
		if v.HostPath != nil && v.HostPath.Type != nil {
			types[v.Name] = *v.HostPath.Type
		}
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
			made = volume{path: filepath.Join(abs, "volumes", name), readOnly: true}
			err = prepareFiles(gang, path.Join(dir, "volumes", name), v, at)
		case "emptyDir":
			made = volume{path: filepath.Join(s.dir, "volumes", name), limit: v.SizeBytes}
			err = makeOpen(made.path)
		case "memory":
			made = volume{path: filepath.Join(s.memoryDir(), name), limit: v.SizeBytes}
			err = makeOpen(made.path)
		case "hostPath":
			made = volume{path: filepath.Clean(v.Path)}
			err = checkHostPath(made.path, types[name])
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
func makeOpen(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o777)
}

// prepareFiles writes the files that only the node can and sets modes.
func prepareFiles(gang *os.Root, dir string, v manifest.Volume, at place) error {
	if err := gang.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := gang.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, field := range v.NodeFields {
		value, err := at.field(field)
		if err != nil {
			return fmt.Errorf("file %q: %w", name, err)
		}
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return fmt.Errorf("file %q: %w", name, err)
		}
		if err := atomicfile.Write(root, name, []byte(value)); err != nil {
			return err
		}
	}
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return root.Chmod(name, 0o755)
		case !d.Type().IsRegular():
			return fmt.Errorf("file %q is not a regular file", name)
		}
		mode := fs.FileMode(0o644)
		if m, ok := v.Modes[name]; ok {
			mode = fs.FileMode(m & 0o777)
		}
		return root.Chmod(name, mode)
	})
}

// checkHostPath does what the volume's type asks for.
func checkHostPath(p string, kind corev1.HostPathType) error {
	if !filepath.IsAbs(p) {
		return fmt.Errorf("path %q is not absolute", p)
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(p, 0o755)
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(p, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	st, err := os.Stat(p)
	if err != nil {
		return err
	}
	if (kind == corev1.HostPathDirectory) != st.IsDir() && (kind == corev1.HostPathDirectory || kind == corev1.HostPathFile) {
		return fmt.Errorf("%s is not of type %s", p, kind)
	}
	return nil
}

// mounts gives the mounts of one container's volumeMounts. at is the container's
// field path.
func mounts(c *corev1.Container, at string, volumes map[string]volume, e environment, namespaces bool) ([]host.Mount, error) {
	var out []host.Mount
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
		source := v.path
		if sub != "" {
			var err error
			if source, err = subPath(v.path, sub, v.readOnly); err != nil {
				return nil, fmt.Errorf("%s.subPath: %w", field, err)
			}
		}
		if !filepath.IsAbs(m.MountPath) {
			return nil, fmt.Errorf("%s.mountPath: %q is not absolute", field, m.MountPath)
		}
		readOnly := m.ReadOnly || v.readOnly
		if !namespaces {
			if filepath.Clean(m.MountPath) == source && !readOnly {
				continue // it is in its place already
			}
			return nil, fmt.Errorf("%s.mountPath: %s cannot be provided, since this node lets users make no namespaces", field, m.MountPath)
		}
		out = append(out, host.Mount{Source: source, Target: m.MountPath, ReadOnly: readOnly, Field: field + ".mountPath"})
	}
	return out, nil
}

// subPath gives a path inside a volume; a missing one is made a directory, as
// the kubelet does. Links may not lead out of the volume.
func subPath(volume, sub string, readOnly bool) (string, error) {
	sub = filepath.Clean(sub)
	if !filepath.IsLocal(sub) {
		return "", fmt.Errorf("%q leads out of the volume", sub)
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", err
	}
	defer root.Close()
	_, err = root.Stat(sub)
	if errors.Is(err, fs.ErrNotExist) && !readOnly {
		err = root.MkdirAll(sub, 0o755)
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(volume, sub), nil
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

// readMessage reads a termination message of at most 4096 bytes, and takes away
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
	buf := make([]byte, 4096)
	n, _ := f.ReadAt(buf, 0) // the end of the file is as good as any error
	return strings.ToValidUTF8(string(buf[:n]), "")
}
