package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/envfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// maxEnvFile is the kubelet's limit for a file of variables, in bytes.
const maxEnvFile = 64 << 10

// envFiles reads each file of variables once for one start of a container.
type envFiles struct {
	volumes map[string]volume
	read    map[string]map[string]string
}

// value gives one variable; found is false for an optional one that is not there.
func (e envFiles) value(ref *manifest.EnvFile) (value string, found bool, err error) {
	id := ref.Volume + "/" + ref.Path
	vars, known := e.read[id]
	if !known {
		v, ok := e.volumes[ref.Volume]
		if !ok {
			return "", false, fmt.Errorf("there is no volume %q", ref.Volume)
		}
		root, err := os.OpenRoot(v.path)
		if err != nil {
			return "", false, err
		}
		defer root.Close()
		data, err := atomicfile.Read(root, ref.Path, maxEnvFile)
		switch {
		case errors.Is(err, fs.ErrNotExist) && ref.Optional:
			return "", false, nil
		case err != nil:
			return "", false, fmt.Errorf("file %s of volume %s: %w", ref.Path, ref.Volume, err)
		}
		if vars, err = envfile.Parse(string(data)); err != nil {
			return "", false, fmt.Errorf("file %s of volume %s: %w", ref.Path, ref.Volume, err)
		}
		e.read[id] = vars
	}
	value, found = vars[ref.Key]
	if !found && !ref.Optional {
		return "", false, fmt.Errorf("file %s of volume %s has no variable %s", ref.Path, ref.Volume, ref.Key)
	}
	return value, found, nil
}
