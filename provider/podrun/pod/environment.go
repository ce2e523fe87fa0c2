package pod

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os/user"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/expand"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// maxString is the kernel's limit for one argument or variable, its final zero
// included.
const maxString = 128 << 10

// Variables of the batch job that a container inherits. Nothing else of the
// job's environment reaches it.
func inherited(name string) bool {
	switch name {
	case "HOME", "USER", "LOGNAME", "TMPDIR", "LANG":
		return true
	case "ISTHMUS_LOCAL_TOKEN": // by which the local batch system knows the processes of a job
		return true
	}
	return granted(name) || strings.HasPrefix(name, "SLURM_") || strings.HasPrefix(name, "SLURMD_")
}

// personal variables are about the user's account on the node, which an image
// does not know.
func personal(name string) bool {
	switch name {
	case "HOME", "USER", "LOGNAME", "TMPDIR", "LANG":
		return true
	}
	return false
}

// granted reports whether a variable says which devices the batch system granted:
// a pod cannot override it.
func granted(name string) bool {
	switch name {
	case "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL":
		return true
	}
	return false
}

// place is what only the node knows of a pod.
type place struct {
	ip, hostIP string
	// names maps the gang's host names to addresses; resolves says that they are
	// in an /etc/hosts that the containers see.
	names    map[string]string
	resolves bool
}

// field resolves a downward API field path that is known only here.
func (p place) field(path string) (string, error) {
	switch path {
	case "status.podIP", "status.podIPs":
		return p.ip, nil
	case "status.hostIP", "status.hostIPs":
		return p.hostIP, nil
	}
	return "", fmt.Errorf("field path %q is not known on the node", path)
}

// environment is what one container gets.
type environment struct {
	vars [][]byte          // NAME=value, sorted by name
	own  map[string]string // the container's declared variables, for $(NAME)
	home string
}

func (e environment) lookup(name string) (string, bool) {
	v, ok := e.own[name]
	return v, ok
}

// newEnvironment makes the environment of a container: the declared variables in
// order, over the few that are inherited. job is the batch job's environment.
func newEnvironment(job []string, declared []manifest.EnvVar, volumes map[string]volume, at place, hostname, token string, base []string) (environment, error) {
	own := make(map[string]string, len(declared))
	files := envFiles{volumes: volumes, read: map[string]map[string]string{}}
	lookup := func(name string) (string, bool) { v, ok := own[name]; return v, ok }
	for _, v := range declared {
		if v.Name == "" || strings.ContainsAny(v.Name, "=\x00") {
			return environment{}, fmt.Errorf("environment variable %q: a name is not empty and has no '=' and no NUL", v.Name)
		}
		value := string(v.Value)
		switch {
		case v.Field != "":
			var err error
			if value, err = at.field(v.Field); err != nil {
				return environment{}, fmt.Errorf("environment variable %s: %w", v.Name, err)
			}
		case v.File != nil:
			var found bool
			var err error
			if value, found, err = files.value(v.File); err != nil {
				return environment{}, fmt.Errorf("environment variable %s: %w", v.Name, err)
			} else if !found {
				continue
			}
		case v.Expand:
			value = expand.String(value, lookup)
		}
		value = peers.Variable(v.Name, value, at.names, at.resolves)
		if strings.ContainsRune(value, 0) {
			return environment{}, fmt.Errorf("environment variable %s: the value has a NUL byte, which no program can receive", v.Name)
		}
		if n := len(v.Name) + len(value) + 2; n > maxString {
			return environment{}, fmt.Errorf("environment variable %s: %d bytes with its name, and the kernel's limit for one variable is %d; use a volume instead", v.Name, n, maxString)
		}
		own[v.Name] = value
	}
	all := map[string]string{"PATH": stage.DefaultPath, "HOSTNAME": hostname, process.TokenVariable: token}
	devices := map[string]string{}
	for _, kv := range job {
		name, value, _ := strings.Cut(kv, "=")
		if inherited(name) && (base == nil || !personal(name)) {
			all[name] = value
		}
		if granted(name) {
			devices[name] = value
		}
	}
	for _, kv := range base {
		if name, value, ok := strings.Cut(kv, "="); ok && !granted(name) {
			all[name] = value
		}
	}
	if base == nil && (all["HOME"] == "" || all["USER"] == "") {
		if u, err := user.Current(); err == nil { // a directory service may not be readable here
			all["HOME"], all["USER"] = first(all["HOME"], u.HomeDir), first(all["USER"], u.Username)
		}
	}
	e := environment{own: own, home: all["HOME"]}
	maps.Copy(all, own)
	maps.Copy(all, devices)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e.vars = append(e.vars, []byte(name+"="+all[name]))
	}
	return e, nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// with gives the variables with one more, unless the container has its own.
func (e environment) with(name, value string) [][]byte {
	if _, ok := e.own[name]; ok {
		return e.vars
	}
	return append(slices.Clone(e.vars), []byte(name+"="+value))
}

// arguments gives the argument vector of a container: command stands for the
// image's ENTRYPOINT and args for its CMD, and a command without args has none.
// Source: the Kubernetes documentation, "Define a Command and Arguments for a
// Container".
func arguments(c *corev1.Container, img image.Config, e environment) ([][]byte, error) {
	own, err := expandAll(append(slices.Clone(c.Command), c.Args...), e)
	if err != nil || len(c.Command) > 0 {
		return own, err
	}
	argv := runtime.Words(img.Entrypoint...)
	if len(c.Args) > 0 {
		argv = append(argv, own...)
	} else {
		argv = append(argv, runtime.Words(img.Cmd...)...)
	}
	if len(argv) == 0 {
		return nil, errors.New("no command specified: neither the container nor its image says what to run")
	}
	return argv, nil
}

func expandAll(words []string, e environment) ([][]byte, error) {
	out := make([][]byte, len(words))
	for i, w := range words {
		out[i] = []byte(expand.String(w, e.lookup))
		if bytes.IndexByte(out[i], 0) >= 0 {
			return nil, fmt.Errorf("argument %d of the command has a NUL byte", i)
		}
		if n := len(out[i]) + 1; n > maxString {
			return nil, fmt.Errorf("argument %d of the command: %d bytes, and the kernel's limit for one argument is %d", i, n, maxString)
		}
	}
	return out, nil
}
