package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// maxWant bounds a Want in bytes: images of added containers, and pull secrets.
const maxWant = maxEphemeral + image.MaxSecrets

// Want notes which images the containers will run that are to be added to a pod:
// a manifest.Want, read from in. Pull has them pulled with the gang's own and tells
// how far that is; Ephemeral ends it. It may be repeated: what is there, or under
// way, is not begun anew.
func Want(dir, key string, rank int, in io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(in, maxWant+1))
	if err != nil {
		return fmt.Errorf("read what is wanted: %w", err)
	}
	var w manifest.Want
	if len(data) > maxWant || json.Unmarshal(data, &w) != nil || w.Version != manifest.Version {
		return fmt.Errorf("what is wanted, of %d bytes, is too long or no JSON of version %d: %w", len(data), manifest.Version, ErrInvalid)
	}
	root, pod, err := openControl(dir, key, rank)
	if err != nil {
		return err
	}
	defer root.Close()
	defer pod.Close()
	if err := atomicfile.Write(pod, manifest.WantFile, data); err != nil {
		return err
	}
	p, err := readPull(root, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := func(i manifest.WantedImage) bool {
		return slices.ContainsFunc(p.Images, func(have manifest.PulledImage) bool { return have.Image == i.Image })
	}
	if err == nil && !slices.ContainsFunc(w.Images, func(i manifest.WantedImage) bool { return !known(i) }) {
		return nil
	}
	// A puller that is at the gang's images just now may write over this. Then
	// it tells of others only, and the next call notices.
	return atomicfile.WriteJSON(root, pullPath(key), manifest.Pull{Version: manifest.Version})
}

// wantedLater lists the images of containers that are to be added to a pod.
func wantedLater(gang *os.Root, rank string, pod *manifest.Pod, dir string) ([]want, error) {
	var w manifest.Want
	raw, err := atomicfile.Read(gang, path.Join("pods", rank, manifest.WantFile), maxWant)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && json.Unmarshal(raw, &w) != nil {
		err = errors.New("what is wanted for added containers cannot be read") // the decoder's error quotes what it read
	}
	if err != nil {
		return nil, err
	}
	store, err := storeWith(pod, dir, w.Secrets)
	if err != nil {
		return nil, err
	}
	out := make([]want, 0, len(w.Images))
	for _, i := range w.Images {
		out = append(out, want{i.Image, i.Policy, store})
	}
	return out, nil
}
