// Package host is the runtime that runs containers as bare processes of the
// node: no image, the node's own filesystem. Where the kernel lets users make
// user namespaces, each program gets a mount namespace of its own, in which
// volumes appear at their mount paths and /etc/hosts knows the gang.
package host

import (
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// Runtime is the runtime.
type Runtime struct{}

// Image reports whether containers run images.
func (Runtime) Image() bool { return false }

// Run is the sandbox of c's main program.
func (Runtime) Run(c *runtime.Container) (stage.Sandbox, error) { return c.Main, nil }

// Exec is the sandbox of a further program: it gets a view of its own that is
// like the main one's.
func (Runtime) Exec(_ *runtime.Container, _ int, what stage.Sandbox) (stage.Sandbox, error) {
	return what, nil
}
