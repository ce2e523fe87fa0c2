package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/safepath"
)

// checkHostPath does what the volume's type asks for. Nothing is made, and
// nothing accepted, that lies outside v.Beneath once links are followed.
func checkHostPath(p string, v manifest.Volume) error {
	kind := corev1.HostPathType(v.Type)
	f, err := safepath.Open(p, v.Beneath)
	if errors.Is(err, fs.ErrNotExist) && (kind == corev1.HostPathDirectoryOrCreate || kind == corev1.HostPathFileOrCreate) {
		if err := create(p, v.Beneath, kind == corev1.HostPathDirectoryOrCreate); err != nil {
			return err
		}
		f, err = safepath.Open(p, v.Beneath)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	mode, ok := st.Mode(), true
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not of type %s", p, kind)
	}
	return nil
}

// create makes a directory with its parents, or a file, without following a
// link out of the allowed directory that p begins with.
func create(p string, within []string, isDir bool) error {
	top, rel := "/", strings.TrimPrefix(p, "/")
	for _, dir := range within {
		dir = filepath.Clean(dir)
		if r, ok := strings.CutPrefix(p, strings.TrimSuffix(dir, "/")+"/"); ok && len(dir) > len(top) {
			top, rel = dir, r
		}
		if p == dir { // the directory itself: it is the administrator's
			return fmt.Errorf("%s does not exist on this node", p)
		}
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return err
	}
	defer root.Close()
	if isDir {
		return root.MkdirAll(rel, 0o755)
	}
	f, err := root.OpenFile(rel, os.O_CREATE|os.O_RDONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
