// Package stage starts the programs of containers, for all runtimes. A program is
// started in steps: this process starts podrun again as a stage, where the
// kernel lets users have them inside a user and a mount namespace of its own; the
// stage mounts, gives up every capability and executes the program. For image
// runtimes that program is the runtime's own, and podrun is once more the first
// program inside the container.
package stage

import (
	"errors"
	"fmt"
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

	// What follows is for image runtimes, whose program is what Argv names.

	// Bare sandboxes have no namespaces of their own: the runtime's program makes them.
	Bare bool `json:"bare,omitempty"`
	// View is made before Argv is executed, and Setup run in it.
	View  *View      `json:"view,omitempty"`
	Setup [][]string `json:"setup,omitempty"`
	// Next is handed on to podrun as the first program inside the container: so
	// arguments, environment and errors need no command line to get in and out.
	Next   *Sandbox `json:"next,omitempty"`
	Inside bool     `json:"inside,omitempty"` // of Next
	// Keeps says that programs of the runtime stay between podrun and the
	// container: the report is open as long as they, and they are the parents.
	Keeps bool `json:"keeps,omitempty"`
	// PIDFile is where the runtime's program writes the process id, on the node, of
	// the container's main process. Signals go there. "": the started process is
	// the main one, or passes signals on.
	PIDFile string `json:"-"`
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
	Parent     int  `json:"parent"` // process whose end is the program's end, 0 for none
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
func (d *Driver) Start(s Sandbox, stdin, stdout, stderr *os.File) (*Process, error) {
	if !d.namespaces && !s.Bare && s.Next != nil {
		return nil, &Failure{Kind: "stage", Message: "this runtime needs user namespaces, which this node does not give: " + d.why}
	}
	if !d.namespaces && !s.Bare && len(s.Mounts) > 0 {
		m := s.Mounts[0]
		return nil, &Failure{Kind: "mount", Field: m.Field, Message: fmt.Sprintf("%s cannot be provided: no user namespaces on this node (%s)", m.Target, d.why)}
	}
	if !d.namespaces && s.ReadOnlyRoot {
		return nil, &Failure{Kind: "mount", Field: "securityContext.readOnlyRootFilesystem", Message: "cannot be provided: no user namespaces on this node (" + d.why + ")"}
	}
	p, err := d.start(order{Sandbox: s}, []*os.File{stdin, stdout, stderr})
	var f *Failure
	if err != nil && !errors.As(err, &f) {
		err = &Failure{Kind: "stage", Message: err.Error()}
	}
	return p, err
}

func (d *Driver) start(o order, files []*os.File) (*Process, error) {
	o.Namespaces, o.Parent = d.namespaces && !o.Bare, os.Getpid()
	in, err := memory(o)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	report, out, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create report pipe: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_, _ = out.Close(), report.Close()
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
		Namespaces: o.Namespaces,
		Override:   o.View != nil,
		Terminal:   o.Terminal,
	})
	_ = out.Close() // the stage has its own; the report ends when that is closed
	if err != nil {
		_ = report.Close()
		return nil, err
	}
	p := &Process{Child: c, pidFile: o.PIDFile, noted: make(chan struct{})}
	if err := p.await(report, o.Next != nil, o.Keeps); err != nil {
		return nil, err
	}
	return p, nil
}
