package image

import (
	"errors"
	"path/filepath"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// MaxSecrets bounds the file with a pod's pull secrets, in bytes.
const MaxSecrets = 16 << 20

// New gives the store that a pod's images are in, without credentials. base is
// the user's staging root, which holds the store unless in names another; nil is
// as the zero value.
func New(in *manifest.Images, base string) *Store {
	if in == nil {
		in = &manifest.Images{}
	}
	dir := in.Directory
	if dir == "" {
		dir = filepath.Join(base, "images")
	}
	s := &Store{Dir: dir, CAFile: in.CAFile, Insecure: in.Insecure, Archives: in.Archives}
	for _, m := range in.Mirrors {
		s.Mirrors = append(s.Mirrors, Mirror{Registry: m.Registry, Endpoint: m.Endpoint})
	}
	return s
}

// Reasons are what a container waits for when Ensure has failed, at once and
// until the next try has ended, as a kubelet says it.
func Reasons(err error) (now, later string) {
	switch {
	case errors.Is(err, ErrNeverPull):
		return manifest.ReasonErrNeverPull, manifest.ReasonErrNeverPull
	case errors.Is(err, ErrInvalidName):
		return manifest.ReasonInvalidImageName, manifest.ReasonInvalidImageName
	}
	return manifest.ReasonErrImagePull, manifest.ReasonImagePullBackOff
}
