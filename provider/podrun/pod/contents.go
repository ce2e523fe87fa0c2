package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/projection"
)

// maxContents bounds one file of a volume in bytes.
const maxContents = 16 << 20

// contents keeps the pod's volumes of kind "files" as the newest hand-over has
// them: as staged, or one of the updates beside that.
type contents struct {
	gang   *os.Root
	dir    string // pods/<rank>, beneath gang
	spec   *manifest.Pod
	at     place
	serial int  // of the update in use; 0 is as staged
	used   bool // something has been written
}

// live is where containers see a volume's files, beneath the gang's directory.
func (c *contents) live(name string) string { return path.Join(c.dir, "live", name) }

// update brings the volumes up to date, and gives what they hold and whether
// that is news. A hand-over that cannot be read is passed over for the one
// before it.
func (c *contents) update() (now manifest.Contents, news bool, err error) {
	serials, err := atomicfile.Numbers(c.gang, path.Join(c.dir, manifest.UpdatesDir))
	if err != nil {
		return now, false, fmt.Errorf("look for new contents of volumes: %w", err)
	}
	slices.Reverse(serials)
	var errs []error
	for _, serial := range append(serials, 0) {
		if c.used && serial <= c.serial {
			break
		}
		from := c.dir
		next := manifest.Update{Contents: c.spec.Contents, Volumes: c.spec.Volumes}
		if serial > 0 {
			from = path.Join(c.dir, manifest.UpdatesDir, strconv.Itoa(serial))
			err = atomicfile.ReadJSON(c.gang, path.Join(from, manifest.UpdateFile), maxPod, &next)
			if err == nil && next.Version != manifest.Version {
				err = fmt.Errorf("update %d has version %d, this runner knows %d", serial, next.Version, manifest.Version)
			}
		}
		if err == nil {
			err = c.take(from, next.Volumes)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c.serial, c.used = serial, true
		return next.Contents, true, errors.Join(errs...)
	}
	return now, false, errors.Join(errs...)
}

// take makes the volumes show what is in from.
func (c *contents) take(from string, volumes map[string]manifest.Volume) error {
	group := 0
	if s := c.spec.Pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		group = int(*s.FSGroup)
	}
	for name, v := range volumes {
		if v.Kind != "files" {
			continue
		}
		if !isLabel(name) {
			return fmt.Errorf("volume %q: not a valid name", name)
		}
		set, err := c.read(path.Join(from, "volumes", name), v)
		if err != nil {
			return fmt.Errorf("volume %q: %w", name, err)
		}
		if set.Group = group; group > 0 {
			for file, f := range set.Files {
				if f.Mode != 0o600 { // tokens among them are their user's alone
					f.Mode |= 0o440 // as a kubelet does for the group's sake
				}
				set.Files[file] = f
			}
		}
		if _, err := projection.Write(c.gang, c.live(name), set); err != nil {
			return fmt.Errorf("volume %q: %w", name, err)
		}
	}
	return nil
}

// read collects the files of one volume.
func (c *contents) read(dir string, v manifest.Volume) (projection.Set, error) {
	set := projection.Set{Files: map[string]projection.File{}}
	mode := func(name string) fs.FileMode {
		if m, ok := v.Modes[name]; ok {
			return fs.FileMode(m & 0o777)
		}
		return 0o644
	}
	root, err := c.gang.OpenRoot(dir)
	switch {
	case err == nil:
		defer root.Close()
		err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := atomicfile.Read(root, name, maxContents)
			if err != nil {
				return err
			}
			set.Files[name] = projection.File{Data: data, Mode: mode(name)}
			return nil
		})
	case errors.Is(err, fs.ErrNotExist):
		err = nil // a volume may be empty
	}
	if err != nil {
		return set, err
	}
	for name, field := range v.NodeFields {
		value, err := c.at.field(field)
		if err != nil {
			return set, fmt.Errorf("file %q: %w", name, err)
		}
		set.Files[name] = projection.File{Data: []byte(value), Mode: mode(name)}
	}
	return set, nil
}

// freshen looks for newer contents and takes them; told keeps one failure from
// being said with every look.
func (r *runner) freshen(told *string) {
	if r.contents == nil {
		return
	}
	now, news, err := r.contents.update()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if err != nil && text != *told {
		r.warn(err)
		r.event("Warning", "FailedMount", "volumes were not brought up to date: "+text)
	}
	*told = text
	if news {
		r.status.Update(func(s *manifest.Status) { s.Contents = now })
	}
}

// event tells the user something once, through the provider.
func (r *runner) event(kind, reason, message string) {
	const most = 1024
	r.status.Update(func(s *manifest.Status) {
		number := int64(1)
		if n := len(s.Events); n > 0 {
			number = s.Events[n-1].Number + 1
		}
		if len(message) > most {
			message = message[:most]
		}
		// A new slice: copies of the status may be on their way to the file.
		events := append(slices.Clone(s.Events), manifest.Event{Number: number, Type: kind, Reason: reason, Message: message})
		s.Events = events[max(0, len(events)-manifest.MaxEvents):]
	})
}
