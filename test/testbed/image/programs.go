package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// nobody is the user of the programs' images, which the chart names too.
const nobody = "65532"

// authorities is where Debian keeps the certificates of public authorities, and where
// Go's programs look for them.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

// contents are the programs of each image that the chart names. The first is what it runs.
func contents() map[string][]string {
	return map[string][]string{"scheduler": {"scheduler"}, "controllers": {"controllers"}, "vnode": {"vnode", "podrun"}}
}

// Programs says what to make images of the project's programs from.
type Programs struct {
	// Directory holds the programs, static ones: vnode, podrun, scheduler, controllers.
	Directory string
	// Registry and Tag are those of the chart: images are called Registry/program:Tag.
	Registry, Tag string
}

// Write writes one OCI archive for each image that the chart names into a directory,
// which it makes where it is not there, and returns them by program. Beside the
// programs an image has the authorities of this machine and a user.
func (p Programs) Write(directory string) (map[string]string, error) {
	if p.Registry == "" || p.Tag == "" {
		return nil, errors.New("write images: registry and tag are required")
	}
	if err := os.MkdirAll(directory, 0o755); err != nil { //nolint:gosec // images are no secret
		return nil, fmt.Errorf("write images: %w", err)
	}
	out := map[string]string{}
	for name, programs := range contents() {
		tree, err := p.tree(programs)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		out[name] = filepath.Join(directory, name+".tar")
		if err := WriteArchive(out[name], Image{
			Name: full(p.Registry) + "/" + name + ":" + p.Tag, Tree: tree, User: nobody + ":" + nobody,
			Entrypoint: []string{"/usr/bin/" + programs[0]}, Env: []string{"PATH=/usr/bin"},
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p Programs) tree(programs []string) (*Tree, error) {
	t := NewTree()
	for _, name := range programs {
		from := filepath.Join(p.Directory, name)
		if err := t.CopyAs(from, "/usr/bin/"+name); err != nil {
			return nil, err
		}
		t.mode("usr/bin/"+name, 0o755)
	}
	switch err := t.Copy(authorities); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is not there: install ca-certificates", authorities)
	case err != nil:
		return nil, err
	}
	t.Write("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/sbin/nologin\nnobody:x:"+nobody+":"+nobody+":nobody:/:/sbin/nologin\n"))
	t.Write("/etc/group", 0o644, []byte("root:x:0:\nnobody:x:"+nobody+":\n"))
	return t, nil
}

// mode replaces that of the machine's file: who builds may have a strict umask.
func (t *Tree) mode(name string, mode int64) {
	e := t.entries[name]
	e.Mode = mode
	t.entries[name] = e
}

// full is a registry as runtimes write it down: names without a host are Docker's.
func full(registry string) string {
	host, _, _ := strings.Cut(registry, "/")
	if strings.ContainsAny(host, ".:") || host == "localhost" {
		return registry
	}
	return "docker.io/" + registry
}
