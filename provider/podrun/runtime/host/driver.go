// Package host is the runtime that runs containers as bare processes of the
// node: no image, the node's own filesystem. Where the kernel lets users make
// user namespaces, each program gets a mount namespace of its own, in which
// volumes appear at their mount paths and /etc/hosts knows the gang. The
// program is started in two steps: this process starts podrun again as a stage
// inside the namespaces, and the stage mounts, gives up every capability and
// executes the program.
package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
)

// StageCommand is the hidden subcommand of podrun that must call Enter.
const StageCommand = "enter"

// Sandbox is one program and what it sees. Strings that may hold any byte are
// []byte, since JSON would mend them.
type Sandbox struct {
	Argv [][]byte `json:"argv"` // Argv[0] is looked up in Env's PATH when it has no slash
	Env  [][]byte `json:"env"`  // NAME=value
	// Dirs are candidates for the working directory; the first usable is taken.
	Dirs []string `json:"dirs"`
	// Mounts are made in order of their targets' depth. They need namespaces.
	Mounts []Mount `json:"mounts,omitempty"`
	// MountDir is an empty private directory of the user, for the stage to use.
	MountDir string `json:"mountDir,omitempty"`
	// ReadOnlyRoot is the container's readOnlyRootFilesystem: nothing but Mounts,
	// /dev and /proc can be written. It needs namespaces.
	ReadOnlyRoot bool `json:"readOnlyRoot,omitempty"`
	// NoNewPrivileges is the container's allowPrivilegeEscalation=false.
	NoNewPrivileges bool `json:"noNewPrivileges,omitempty"`
	// Terminal says that the standard descriptors are a terminal, which becomes
	// the program's controlling one.
	Terminal bool `json:"-"`
}

// Mount shows Source, a file or directory of the node, at Target.
type Mount struct {
	Source string `json:"source"`
	// Within are directories of which one must hold what Source leads to; without
	// any, it may lie anywhere.
	Within []string `json:"within,omitempty"`
	// Sub is a path inside Source to show in its place; no link may lead it out.
	Sub      string `json:"sub,omitempty"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Field is the API field that asked for it, for messages.
	Field string `json:"field"`
	// Optional mounts may fail without failing the program.
	Optional bool `json:"optional,omitempty"`
}

// Failure says why a program could not be started.
type Failure struct {
	// Kind is "mount", "dir", "exec" or "stage".
	Kind string `json:"kind"`
	// Field is the API field at fault, when there is one.
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	// Missing says that the program of kind "exec" does not exist.
	Missing bool `json:"missing,omitempty"`
}

func (f *Failure) Error() string {
	if f.Field != "" {
		return f.Field + ": " + f.Message
	}
	return f.Message
}

// order is what the stage reads from descriptor 3.
type order struct {
	Sandbox
	Namespaces bool `json:"namespaces"`
	Parent     int  `json:"parent"` // process whose end is the program's end
	Trial      bool `json:"trial,omitempty"`
}

// Driver starts programs on this node.
type Driver struct {
	reaper     *process.Reaper
	exe        string
	namespaces bool
	why        string
}

// New decides whether namespaces are to be had on this node, by trying. dir is
// a private directory of the user. With wanted false it does not try.
func New(reaper *process.Reaper, dir string, wanted bool) (*Driver, error) {
	// The link, not the path: the stage must be this very program even when the
	// file was replaced since.
	d := &Driver{reaper: reaper, exe: "/proc/self/exe", namespaces: wanted, why: "namespaces were switched off"}
	if !wanted {
		return d, nil
	}
	c, err := d.start(order{Sandbox: Sandbox{MountDir: dir}, Trial: true}, nil)
	if err == nil {
		select {
		case <-c.Done():
			if code := c.Status().ExitStatus(); code != 0 {
				err = fmt.Errorf("trial ended with code %d", code)
			}
		case <-time.After(30 * time.Second):
			_ = unix.Kill(c.PID(), unix.SIGKILL)
			err = errors.New("trial did not end within 30 s")
		}
	}
	if err != nil {
		d.namespaces, d.why = false, err.Error()
	}
	return d, nil
}

// Namespaces reports whether programs get a mount namespace, and why not.
func (d *Driver) Namespaces() (bool, string) { return d.namespaces, d.why }

// Start starts a program with the given standard descriptors (nil for none). It
// blocks until the program runs or could not be started; the error is then a
// *Failure. The child's process id is the program's.
func (d *Driver) Start(s Sandbox, stdin, stdout, stderr *os.File) (*process.Child, error) {
	if !d.namespaces && len(s.Mounts) > 0 {
		m := s.Mounts[0]
		return nil, &Failure{Kind: "mount", Field: m.Field, Message: fmt.Sprintf("%s cannot be provided: no user namespaces on this node (%s)", m.Target, d.why)}
	}
	if !d.namespaces && s.ReadOnlyRoot {
		return nil, &Failure{Kind: "mount", Field: "securityContext.readOnlyRootFilesystem", Message: "cannot be provided: no user namespaces on this node (" + d.why + ")"}
	}
	c, err := d.start(order{Sandbox: s}, []*os.File{stdin, stdout, stderr})
	var f *Failure
	if err != nil && !errors.As(err, &f) {
		err = &Failure{Kind: "stage", Message: err.Error()}
	}
	return c, err
}

func (d *Driver) start(o order, files []*os.File) (*process.Child, error) {
	o.Namespaces, o.Parent = d.namespaces, os.Getpid()
	data, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode order: %w", err)
	}
	fd, err := unix.MemfdCreate("podrun-order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create order: %w", err)
	}
	in := os.NewFile(uintptr(fd), "order")
	defer in.Close()
	if _, err := in.Write(data); err != nil {
		return nil, fmt.Errorf("write order: %w", err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("rewind order: %w", err)
	}
	report, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create report pipe: %w", err)
	}
	defer report.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("open null device: %w", err)
	}
	defer null.Close()
	std := []*os.File{null, null, null, in, out}
	for i, f := range files {
		if f != nil {
			std[i] = f
		}
	}
	c, err := d.reaper.Start(process.Spec{
		Path:       d.exe,
		Argv:       []string{"podrun", StageCommand},
		Env:        []string{"GOMAXPROCS=1", "GOTRACEBACK=none"},
		Dir:        "/",
		Files:      std,
		Namespaces: d.namespaces,
		Terminal:   o.Terminal,
	})
	_ = out.Close() // the stage has its own; the report ends when that is closed
	if err != nil {
		return nil, err
	}
	said, err := io.ReadAll(io.LimitReader(report, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read report: %w", err)
	}
	if len(said) == 0 {
		return c, nil // closed by a successful exec, or the stage was killed: the child's status tells
	}
	<-c.Done()
	var f Failure
	if err := json.Unmarshal(said, &f); err != nil {
		return nil, fmt.Errorf("decode report: %w", err)
	}
	return nil, &f
}
