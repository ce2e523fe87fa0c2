package staging

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// maxArchive bounds the tar of one gang, in bytes.
const maxArchive = 128 << 20

// Archive packs a gang directory as a tar of directories and regular files.
// Equal outputs give equal bytes: entries are sorted and carry no times.
func Archive(out translate.Output) ([]byte, error) {
	files := map[string][]byte{}
	gang, err := json.Marshal(out.Gang)
	if err != nil {
		return nil, fmt.Errorf("encode gang.json: %w", err)
	}
	files["gang.json"] = gang
	dirs := map[string]bool{}
	for i := range out.Pods {
		dir := "pods/" + strconv.Itoa(out.Pods[i].Rank)
		body, err := json.Marshal(out.Pods[i])
		if err != nil {
			return nil, fmt.Errorf("encode %s/pod.json: %w", dir, err)
		}
		files[dir+"/pod.json"] = body
		for name, v := range out.Pods[i].Volumes {
			if v.Kind == "files" {
				dirs[dir+"/volumes/"+name] = true // a volume may be empty
			}
		}
	}
	for rank, secrets := range out.PullSecrets {
		name := fmt.Sprintf("pods/%d/%s", rank, manifest.PullSecrets)
		if files[name], err = json.Marshal(secrets); err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
	}
	for rank, volumes := range out.Files {
		addFiles(files, fmt.Sprintf("pods/%d", rank), volumes)
	}
	return pack(dirs, files)
}

// UpdateArchive packs newer contents of members' volumes: <rank>/update.json and
// <rank>/volumes/<name>/...
func UpdateArchive(members map[int]translate.Refresh) ([]byte, error) {
	files, dirs := map[string][]byte{}, map[string]bool{}
	for rank, r := range members {
		dir := strconv.Itoa(rank)
		body, err := json.Marshal(r.Update)
		if err != nil {
			return nil, fmt.Errorf("encode %s/update.json: %w", dir, err)
		}
		files[dir+"/update.json"] = body
		for name := range r.Update.Volumes {
			dirs[dir+"/volumes/"+name] = true
		}
		addFiles(files, dir, r.Files)
	}
	return pack(dirs, files)
}

func addFiles(files map[string][]byte, dir string, volumes map[string]map[string]translate.File) {
	for volume, contents := range volumes {
		for name, f := range contents {
			files[dir+"/volumes/"+volume+"/"+name] = f.Data
		}
	}
}

// pack makes the tar of directories, with their parents, and files.
func pack(dirs map[string]bool, files map[string][]byte) ([]byte, error) {
	size := 0
	for name, data := range files {
		if err := clean(name); err != nil {
			return nil, err
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		size += len(data) + 1024
	}
	for dir := range dirs {
		if err := clean(dir); err != nil {
			return nil, err
		}
		if _, both := files[dir]; both {
			return nil, fmt.Errorf("pack gang: %s is a file and a directory", dir)
		}
	}
	if size > maxArchive {
		return nil, fmt.Errorf("pack gang: %d bytes, more than %d", size, maxArchive)
	}

	var buf bytes.Buffer
	buf.Grow(size)
	w := tar.NewWriter(&buf)
	// Parents sort before their children, so they come first.
	for _, name := range slices.Sorted(maps.Keys(merge(dirs, files))) {
		h := &tar.Header{Name: name, Mode: 0o600, Typeflag: tar.TypeReg, Size: int64(len(files[name])), Format: tar.FormatPAX}
		if dirs[name] {
			h.Name, h.Mode, h.Typeflag, h.Size = name+"/", 0o700, tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack gang: %w", err)
	}
	return buf.Bytes(), nil
}

func merge(dirs map[string]bool, files map[string][]byte) map[string]bool {
	all := make(map[string]bool, len(dirs)+len(files))
	for d := range dirs {
		all[d] = true
	}
	for f := range files {
		all[f] = true
	}
	return all
}

// clean refuses a name that could leave the directory.
func clean(name string) error {
	if name == "" || path.Clean(name) != name || path.IsAbs(name) || name == ".." ||
		strings.HasPrefix(name, "../") || strings.ContainsRune(name, 0) || len(name) > 4096 {
		return fmt.Errorf("pack gang: %q is not a clean relative path", name)
	}
	return nil
}
