// Package runtime is what the pod runner hands to its container runtimes: a run
// of a container. A runtime is a pure function from that to a sandbox, the start
// of a program, which package stage carries out. The runtimes know nothing of
// one another.
package runtime

import (
	"cmp"
	"encoding/csv"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// InitPath is where podrun itself appears in the containers of image runtimes:
// it is the first program there.
const InitPath = "/.podrun"

// Container is one run of one container.
type Container struct {
	// Name is unique on the node, of letters, digits and '-'. Token marks the
	// run's processes.
	Name, Token string
	// Main is what the program gets, whatever the runtime: arguments, environment,
	// working directories, mounts, settings.
	Main stage.Sandbox
	// Rootfs is the unpacked image, which many containers share: no runtime lets a
	// program change it. It is "" for containers without image.
	Rootfs string
	// Scratch is a private directory on the node for this run, with an empty
	// directory "tmp" in it.
	Scratch string
	// Brief is another, of a path short enough for names of sockets.
	Brief string
	// Init is the path of podrun on the node.
	Init     string
	Hostname string
	// User is the job's user by name. Path is the job's PATH, by which runtimes'
	// programs are found.
	User, Path string
	// NVIDIA are the GPUs that the batch system granted, as the driver's tools name
	// them. AMD says that there are such of AMD.
	NVIDIA []string
	AMD    bool
	// HostPID and HostIPC are the pod's settings.
	HostPID, HostIPC bool
}

// Inner is the sandbox for podrun inside c's container.
func (c *Container) Inner(main stage.Sandbox) *stage.Sandbox {
	return &stage.Sandbox{Argv: main.Argv, Env: main.Env, Dirs: main.Dirs, NoNewPrivileges: main.NoNewPrivileges, Inside: true}
}

// Env is the environment of a runtime's program, which is not the container's:
// it finds its parts, keeps its files in the scratch space, and is told from
// others by the run's token.
func (c *Container) Env(more ...string) [][]byte {
	path := c.Path
	if path == "" {
		path = stage.DefaultPath
	}
	return Words(append([]string{"PATH=" + path, "USER=" + c.User, "HOME=" + c.Scratch, "XDG_RUNTIME_DIR=" + c.Brief,
		process.TokenVariable + "=" + c.Token}, more...)...)
}

// Mounts are c's mounts with those that every image runtime needs: podrun itself
// and the resolver's file, which containers share with the node as they share
// its network.
func (c *Container) Mounts() []stage.Mount {
	return append([]stage.Mount{
		{Source: c.Init, Target: InitPath, ReadOnly: true, Field: "image"},
		{Source: "/etc/resolv.conf", Target: "/etc/resolv.conf", ReadOnly: true, Field: "spec.dnsPolicy", Optional: true},
	}, c.Main.Mounts...)
}

// View is the root directory of c's container for runtimes whose own programs
// take one as it is, with the mounts that they bind in. Targets beneath the node's
// directories hosted, which those programs show in the container, are made in
// the node's own tree instead and given as mounts.
func (c *Container) View(hosted []string) (v *stage.View, mounts []stage.Mount) {
	v = &stage.View{Rootfs: c.Rootfs, Dir: c.Scratch + "/view", Upper: c.Scratch + "/upper", Work: c.Scratch + "/work",
		ReadOnly: c.Main.ReadOnlyRoot, Files: []string{"/etc/passwd", "/etc/group", "/etc/hosts"}, Folders: []string{"/dev", "/proc", "/sys", "/tmp"}}
	all := append([]stage.Mount{{Source: c.Scratch + "/tmp", Target: "/tmp", ReadOnly: c.Main.ReadOnlyRoot, Field: "image"}}, c.Mounts()...)
next:
	for _, m := range all {
		for _, dir := range hosted {
			if strings.HasPrefix(m.Target, dir+"/") {
				mounts = append(mounts, m)
				continue next
			}
		}
		v.Binds = append(v.Binds, stage.Bind{Mount: m, At: c.Scratch + "/binds/" + strconv.Itoa(len(v.Binds))})
	}
	// A mount within another one comes after it, or it would be hidden.
	slices.SortStableFunc(v.Binds, func(a, b stage.Bind) int {
		return cmp.Compare(strings.Count(path.Clean(a.Target), "/"), strings.Count(path.Clean(b.Target), "/"))
	})
	return v, mounts
}

// Join is the sandbox of a further program in the namespaces of c's main process,
// whatever runtime made them. ownPIDs says that the container has a process
// namespace of its own.
func (c *Container) Join(pid int, ownPIDs bool, what stage.Sandbox) stage.Sandbox {
	argv := []string{"nsenter", "--target=" + strconv.Itoa(pid), "--user", "--preserve-credentials", "--mount"}
	if ownPIDs {
		argv = append(argv, "--pid", "--ipc", "--uts")
	}
	argv = append(argv, "--root", "--wd=/", "--", InitPath, stage.StageCommand)
	return stage.Sandbox{Argv: Words(argv...), Env: c.Env(), Dirs: []string{"/"}, Bare: true, Next: c.Inner(what), Keeps: ownPIDs, Terminal: what.Terminal}
}

// Words makes an argument vector of a sandbox.
func Words(words ...string) [][]byte {
	out := make([][]byte, len(words))
	for i, w := range words {
		out[i] = []byte(w)
	}
	return out
}

// Record writes fields as one record of comma-separated values, in which some runtimes
// take a mount: a path may have commas.
func Record(fields ...string) (string, error) {
	var b strings.Builder
	w := csv.NewWriter(&b)
	if err := w.Write(fields); err != nil {
		return "", err
	}
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n"), w.Error()
}
